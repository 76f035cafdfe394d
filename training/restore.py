"""Checkpoints from the exported folder, so that training goes on from the weights that are committed.

Writes `STAGE.pt` for every part of `src/segue/models/pocket` that has none yet, without the optimiser's state, which
exported weights do not have, and the learnt merges of the tokenizer. Then any stage goes on with more `--minutes`; the
UNet and the ControlNet after `training.latents`. Run: `python -m training.restore`.
"""

import json
from collections.abc import Callable

from diffusers import AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPModel

from segue.pose.network import load
from training.store import CACHE, MODEL, command, save_checkpoint

PARTS: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    "vae": ("vae", AutoencoderTiny.from_pretrained),
    "clip": ("clip", CLIPModel.from_pretrained),
    "unet": ("unet", UNet2DConditionModel.from_pretrained),
    "controlnet": ("controlnet", ControlNetModel.from_pretrained),
    "pose": ("pose", load),
}


def main() -> None:
    command(__doc__).parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    for stage, (part, read) in PARTS.items():
        path = CACHE / f"{stage}.pt"
        if path.exists():
            print(f"{path} is there already")
            continue
        weights = read(MODEL / part).float().state_dict()
        save_checkpoint(stage, {"step": 0, "seconds": 0.0, "model": weights, "ema": weights})
        print(path)
    merges = CACHE / "merges.json"
    if not merges.exists():
        learnt = json.loads((MODEL / "tokenizer" / "tokenizer.json").read_text())["model"]["merges"]
        merges.write_text(json.dumps(learnt))


if __name__ == "__main__":
    main()
