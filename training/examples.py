"""The example pictures, `examples/*.png`, drawn from their SVGs at 512 x 512 on white.

Run: `python -m training.examples`.
"""

from training.icons import read_all
from training.pairs import draw
from training.store import ROOT, command

FOLDER = ROOT / "examples"
EXAMPLES = {
    "cat": ("cat face", "noto"),
    "tiger": ("tiger face", "noto"),
    "leopard": ("leopard", "noto"),
    "turtle": ("turtle", "noto"),
    "rabbit": ("rabbit", "noto"),
    "fox": ("fox face", "streamline emojis"),
    "bear": ("bear", "twemoji"),
    "apple": ("red apple", "fluent emoji"),
    "moon": ("full moon", "emojione"),
}


def main() -> None:
    command(__doc__).parse_args()
    icons = {(icon["concept"], icon["style"]): icon["svg"] for icon in read_all()}
    for name, key in EXAMPLES.items():
        draw(icons[key], FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
