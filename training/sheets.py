"""The sheets of the model card, made with the exported folder: pictures, reconstructions, morphs.

Writes `generated.png` (40 prompts), `reconstructions.png` (20 held-out pictures above what the autoencoder makes of
them) and `morphs.png` (10 pairs, 9 frames each) to `docs/pocket/`. Run: `python -m training.sheets`.
"""

import json
import tempfile
from pathlib import Path

import torch
from PIL import Image

from segue import Interpolator
from training.pairs import FOLDER
from training.report import PROMPTS, contact_sheet, drawing_pipe, generate, held_out, to_images, to_tensor
from training.store import ROOT, command

OUT = ROOT / "docs" / "pocket"
MORPHS = (
    "styles-01", "styles-04", "styles-16", "styles-18",
    "concepts-02", "concepts-03", "concepts-08", "concepts-15",
    "poses-05", "poses-13",
)  # fmt: skip
FRAMES, SIDE = 9, 160


def main() -> None:
    command(__doc__).parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    pipe = drawing_pipe()
    save(contact_sheet(generate(pipe, PROMPTS), 8), "generated.png")
    originals = [held_out(name, count)[0] for name, count in (("icons", 12), ("figures", 4), ("openmoji", 4))]
    pictures = [picture for part in originals for picture in part]
    with torch.no_grad():
        x = to_tensor(pictures)
        remade = to_images(pipe.vae.decode(pipe.vae.encode(x).latents).sample)
    rows = [row for i in (0, 10) for row in (pictures[i : i + 10], remade[i : i + 10])]
    save(contact_sheet([picture for row in rows for picture in row], 10), "reconstructions.png")
    save(contact_sheet([frame for name in MORPHS for frame in morph(name)], FRAMES), "morphs.png")


def morph(name: str) -> list[Image.Image]:
    """The frames between the two pictures of an evaluation pair, its prompts and poses given."""
    lines = (json.loads(line) for line in (FOLDER / "manifest.jsonl").read_text().splitlines())
    pair = next(line for line in lines if line["name"] == name)
    poses = f"{FOLDER / pair['pose_a']},{FOLDER / pair['pose_b']}" if "pose_a" in pair else "off"
    interpolator = Interpolator.from_pretrained()
    with tempfile.TemporaryDirectory() as folder:
        made = interpolator(
            str(FOLDER / pair["a"]),
            str(FOLDER / pair["b"]),
            prompt=[pair["prompt_a"], pair["prompt_b"]],
            num_frames=FRAMES,
            seed=0,
            output=Path(folder) / "morph",
            pose=poses,
        )
        return [frame.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for frame in made.frames]


def save(sheet: Image.Image, name: str) -> None:
    sheet.save(OUT / name, optimize=True)


if __name__ == "__main__":
    main()
