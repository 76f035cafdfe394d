"""UNet and ControlNet turned to CLIP's present text tower, once CLIP has been trained further than the exported one.

The exported text encoder's hidden states are nearly linear in the present ones. The map that fits them best, by least
squares over the captions' tokens, goes into the networks' keys and values, so that they begin to learn the new states
where they were with the old ones. Comes once, after `training.latents` and before `training.unet`, whose course begins
anew. Run: `python -m training.refit`.
"""

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from training.clip import build_tokenizer
from training.export import trained_controlnet, trained_unet
from training.latents import hidden_states, text_tower
from training.loop import DEVICE
from training.store import MODEL, command, load_array, save_checkpoint

SAMPLES = 2000
RIDGE = 1e-3


def main() -> None:
    command(__doc__).parse_args()
    records = load_array("icons")[1] + load_array("figures")[1]
    captions = ["", *(r["caption"] for r in records[:: max(1, len(records) // SAMPLES)])]
    towers = (text_tower(), CLIPTextModel.from_pretrained(MODEL / "text_encoder").float())
    new, old = (hidden_states(tower.to(DEVICE), build_tokenizer([]), captions).float() for tower in towers)
    for stage, network in (("unet", trained_unet()), ("controlnet", trained_controlnet())):
        if network is not None:
            rest = refit(network, new.flatten(0, 1), old.flatten(0, 1))
            print(f"{stage}: {rest:.1%} of the old states' variance is lost")
            weights = network.state_dict()
            save_checkpoint(stage, {"step": 0, "seconds": 0.0, "model": weights, "ema": weights})


@torch.no_grad()
def refit(network: nn.Module, new: Tensor, old: Tensor) -> float:
    """Makes a network's cross-attention read states as `new` (N, width) where it read `old` (N, width).

    Returns:
        The share of the old states' variance that the new ones do not explain, 0 where the map is exact.
    """
    ridge = RIDGE * new.square().sum() / new.shape[1] * torch.eye(new.shape[1], device=new.device)
    forward = torch.linalg.solve(new.T @ new + ridge, new.T @ old)  # (width, width), from new to old.
    for name, weight in network.named_parameters():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            weight.copy_(weight @ forward.T.to(weight.device))
    return float((new @ forward - old).square().mean() / old.var())


if __name__ == "__main__":
    main()
