"""Sixty pairs of held-out pictures for the evaluation, written to `benchmarks/pairs/`.

Twenty pairs show the same concept in two styles, twenty show different concepts, twenty show one drawn character in two
poses. No picture was ever trained on. All are drawn from their SVGs at 512 x 512 on white. `manifest.jsonl` has a line
for each pair: name, group (`styles`, `concepts`, `poses`), the files a and b, their prompts, and for figures their
poses in OpenPose's JSON.
Run: `python -m training.pairs`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training import drawing
from training.figures import SEED
from training.icons import rasterise, read_all
from training.store import ROOT, command

FOLDER = ROOT / "benchmarks" / "pairs"
STYLES = [
    ("rabbit", "noto", "fluent emoji"), ("horse", "noto", "noto v1"),
    ("chicken", "noto", "fluent emoji flat"), ("mushroom", "noto", "streamline emojis"),
    ("crystal ball", "noto", "emojione"), ("floppy disk", "noto", "fluent emoji"),
    ("disappointed face", "noto", "streamline emojis"), ("skull and crossbones", "noto", "noto v1"),
    ("closed book", "noto v1", "fluent emoji"), ("circus tent", "noto v1", "streamline emojis"),
    ("desktop computer", "noto v1", "twemoji"), ("door", "noto v1", "fluent emoji"),
    ("french fries", "noto v1", "fxemoji"), ("winking face with tongue", "noto v1", "emojione"),
    ("beer mug", "fluent emoji", "streamline emojis"), ("red apple", "fluent emoji", "streamline emojis"),
    ("full moon", "fluent emoji", "emojione"), ("cactus", "fluent emoji flat", "emojione"),
    ("house with garden", "fluent emoji flat", "fxemoji"), ("ferris wheel", "twemoji", "emojione"),
]  # fmt: skip
CONCEPTS = [
    ("leopard", "noto", "turtle", "noto"), ("bear", "twemoji", "banana", "twemoji"),
    ("pig", "noto", "automobile", "noto"), ("gorilla", "noto v1", "person gesturing no", "noto v1"),
    ("dog", "emojione", "shark", "emojione"), ("hamster", "fluent emoji", "lobster", "fluent emoji"),
    ("giraffe", "fluent emoji flat", "hedgehog", "fluent emoji flat"), ("butterfly", "noto", "maple leaf", "noto"),
    ("strawberry", "emojione", "thumbs up", "emojione"),
    ("eggplant", "fluent emoji flat", "potted plant", "fluent emoji flat"),
    ("tulip", "noto v1", "grapes", "noto v1"), ("rooster", "fluent emoji flat", "turkey", "fluent emoji flat"),
    ("honeybee", "noto", "beetle", "noto"), ("crying cat", "twemoji", "slightly smiling face", "twemoji"),
    ("grinning face", "noto", "loudly crying face", "noto"),
    ("ambulance", "streamline emojis", "taxi", "streamline emojis"),
    ("swan", "fluent emoji", "boar", "fluent emoji"), ("ghost", "fluent emoji flat", "moai", "fluent emoji flat"),
    ("volcano", "twemoji", "japanese castle", "emojione"), ("bus", "emojione", "locomotive", "noto"),
]  # fmt: skip
POSES = 20
SIZE = 512


def main() -> None:
    command(__doc__).parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    icons = {(icon["concept"], icon["style"]): icon["svg"] for icon in read_all() if icon["held_out"]}
    named = [("styles", (c, a), (c, b)) for c, a, b in STYLES] + [
        ("concepts", (a, p), (b, q)) for a, p, b, q in CONCEPTS
    ]
    lines: list[dict[str, Any]] = []
    for group, *sides in named:
        number = 1 + sum(line["group"] == group for line in lines)
        line: dict[str, Any] = {"name": f"{group}-{number:02d}", "group": group}
        for side, key in zip("ab", sides, strict=True):
            line[side] = f"{line['name']}-{side}.png"
            draw(icons[key], FOLDER / line[side])
            line[f"prompt_{side}"] = ", ".join(key)
        lines.append(line)
    lines.extend(figures(number) for number in range(1, POSES + 1))
    (FOLDER / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (FOLDER / "LICENCES.md").write_text(LICENCES)


def figures(number: int) -> dict[str, Any]:
    """One character in two poses; its random numbers are none of the training figures'."""
    rng = np.random.default_rng([SEED, 10**6 + number])
    who = drawing.character(rng)
    actions = rng.choice(drawing.ACTIONS, 2, replace=False)
    line: dict[str, Any] = {"name": f"poses-{number:02d}", "group": "poses"}
    for side, action in zip("ab", actions, strict=True):
        how = drawing.posture(rng, str(action))
        points = drawing.place(who, how, rng)
        line[side] = f"{line['name']}-{side}.png"
        draw(drawing.draw(who, points), FOLDER / line[side])
        line[f"prompt_{side}"] = drawing.caption(who, how)
        line[f"pose_{side}"] = f"{line['name']}-{side}.json"
        (FOLDER / line[f"pose_{side}"]).write_text(json.dumps(openpose(points, SIZE)) + "\n")
    return line


def openpose(points: NDArray[np.float64], size: int = drawing.SIZE) -> dict[str, Any]:
    """Keypoints (18, 2) of one drawn person in OpenPose's JSON, for the picture of size x size."""
    scaled = points * size / drawing.SIZE
    keypoints = [number for x, y in scaled for number in (round(float(x), 2), round(float(y), 2), 1.0)]
    return {"version": 1.3, "canvas_width": size, "canvas_height": size, "people": [{"pose_keypoints_2d": keypoints}]}


def draw(svg: str, path: Path) -> None:
    """Writes a square SVG as a picture of 512 x 512 on white."""
    rgba = rasterise(svg, SIZE)
    assert rgba is not None, f"{path.name}: resvg cannot read its SVG"
    alpha = rgba[..., 3:].astype(np.float32) / 255
    rgb = rgba[..., :3] * alpha + 255 * (1 - alpha)
    Image.fromarray(rgb.round().astype(np.uint8)).save(path, optimize=True)


LICENCES = """# Licences of the pictures in this folder

The pictures named `poses-*` are drawn by `training/drawing.py` and are under this project's licence. The others are
icons, rasterised at 512 x 512 on white and otherwise unchanged; a prompt's last words in `manifest.jsonl` name the set:

| style | set, authors | licence |
|---|---|---|
| noto, noto v1 | Noto Emoji, Google Inc | Apache-2.0 |
| fluent emoji, fluent emoji flat | Fluent Emoji, Microsoft Corporation | MIT |
| twemoji | Twitter Emoji (Twemoji), Twitter and contributors | CC-BY-4.0 |
| emojione | Emoji One 2 / EmojiTwo contributors | CC-BY-4.0 |
| fxemoji | Firefox OS Emoji, Mozilla | Apache-2.0 |
| streamline emojis | Streamline Emojis, Streamline | CC-BY-4.0 |
"""


if __name__ == "__main__":
    main()
