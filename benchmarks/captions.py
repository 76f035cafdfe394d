"""How often is the nearest of pocket's captions right, by how sure it is? For SURE_ENOUGH in segue.words.captions.

    python benchmarks/captions.py [--photographs FOLDER]

For each margin and each kind of pictures, the share of pictures whose caption lies above the margin, and of these
captions the share that names the subject exactly, in any style, and the share that has a word of it. The pictures are
those of the training's data set in ``.cache/pocket`` that were held out, one in twenty of the others, and a third of
OpenMoji, whose style pocket never saw; without that data set only the pictures of ``benchmarks/pairs`` and
``examples``. No caption is right for photographs, each of which counts with its four quarters.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from segue.models.clip import POCKET_CLIP
from segue.words.captions import Caption, nearest_captions, subject_of

ROOT = Path(__file__).parents[1]
MARGINS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8)
# Words that many subjects have and that do not say what is shown.
GENERIC = set(re.findall("\\w+", "a and button face in man no not of on or person sign the up down with without woman"))
EXAMPLES = {
    "cat": "cat face",
    "tiger": "tiger face",
    "leopard": "leopard",
    "turtle": "turtle",
    "rabbit": "rabbit",
    "bear": "bear",
    "apple": "red apple",
    "moon": "full moon",
}
Pictures = tuple[list[Image.Image], list[str]]  # and what they show; "" if no caption can be right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, help="a folder of photographs")
    arguments = parser.parse_args()
    kinds = {"examples": examples(), "pairs of icons": pairs("styles", "concepts"), "figures": pairs("poses")}
    if (ROOT / ".cache" / "pocket" / "icons.npy").exists():
        kinds |= {
            "held-out icons": icons("icons", held_out=True),
            "trained icons": icons("icons", held_out=False, every=20),
            "OpenMoji": icons("openmoji", every=3),
        }
    if arguments.photographs:
        kinds["photographs"] = photographs(arguments.photographs)
    found = {name: (nearest_captions(shown, POCKET_CLIP.parent), truth) for name, (shown, truth) in kinds.items()}
    print("| margin |", " | ".join(f"{name} ({len(truth)})" for name, (_, truth) in found.items()), "|")
    print("|---" * (len(found) + 1) + "|")
    for margin in MARGINS:
        print(f"| {margin:g} |", " | ".join(cell(captions, truth, margin) for captions, truth in found.values()), "|")


def cell(captions: Sequence[Caption], truth: Sequence[str], margin: float) -> str:
    """The share above a margin, and in brackets how many of these are right exactly, and by a word."""
    used = [(caption.text, true) for caption, true in zip(captions, truth, strict=True) if (caption.sure or 0) > margin]
    share = f"{len(used) / len(truth):.1%}"
    if not used or not any(truth):
        return share
    exact = np.mean([subject_of(text) == subject_of(true) for text, true in used])
    related = np.mean([subject_of(text) == subject_of(true) or bool(words(text) & words(true)) for text, true in used])
    return f"{share} ({exact:.0%}, {related:.0%})"


def words(caption: str) -> set[str]:
    """The words that say what a caption shows: of a figure only who it is, not its clothes."""
    subject, comma, style = caption.rpartition(", ")
    if style.endswith(" figure"):
        subject = subject.partition(" in a")[0]
    return set((subject if comma else style).lower().split()) - GENERIC


def icons(name: str, held_out: bool | None = None, every: int = 1) -> Pictures:
    """Pictures of a data set of the training, on white: all, those held out or the others; one in so many."""
    drawn = np.load(ROOT / ".cache" / "pocket" / f"{name}.npy", mmap_mode="r")  # (N, H, W, 4)
    records = json.loads((ROOT / ".cache" / "pocket" / f"{name}.json").read_text())
    rows = [i for i, record in enumerate(records) if held_out in (None, record["held_out"]) and i % every == 0]
    return [lay_on_white(Image.fromarray(drawn[i])) for i in rows], [records[i]["caption"] for i in rows]


def lay_on_white(picture: Image.Image) -> Image.Image:
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")


def pairs(*groups: str) -> Pictures:
    """The pictures of groups of benchmarks/pairs."""
    folder = ROOT / "benchmarks" / "pairs"
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    sides = [(line[side], line[f"prompt_{side}"]) for line in lines if line["group"] in groups for side in "ab"]
    return [Image.open(folder / name).convert("RGB") for name, _ in sides], [prompt for _, prompt in sides]


def examples() -> Pictures:
    return [Image.open(ROOT / "examples" / f"{name}.png").convert("RGB") for name in EXAMPLES], list(EXAMPLES.values())


def photographs(folder: Path) -> Pictures:
    """Square pictures of each photograph of a folder: its middle, and those of its quarters."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix in (".jpg", ".png"):
            whole = Image.open(path).convert("RGB")
            x, y = whole.width // 2, whole.height // 2
            quarters = [whole.crop((a, b, a + x, b + y)) for a in (0, x) for b in (0, y)]
            found += [ImageOps.fit(part, (512, 512)) for part in (whole, *quarters)]
    return found, [""] * len(found)


if __name__ == "__main__":
    main()
