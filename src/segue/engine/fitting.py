"""A LoRA is fitted to each keyframe, so that the network knows its subject; frames blend them by place.

For a keyframe with clean latent z_0 and conditioning c, a change of the UNet's attention (``models.lora``) is moved
from none to lower

    || eps_hat(alpha_t z_0 + sigma_t eps; t, c) - eps ||^2,   t over the whole schedule, one draw in each step,

by AdamW at 2e-4 with a weight decay of 1e-2: what DiffMorpher does in 200 steps (Zhang et al., "DiffMorpher:
Unleashing the Capability of Diffusion Models for Image Morphing", CVPR 2024, arXiv 2312.07409). Its z_0 is drawn from
the autoencoder's posterior, here it is the mean. Equal keyframes share one LoRA. What is fitted is kept in the run and
found again.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from segue.engine.dialogue import Progress
from segue.errors import SegueError, warn
from segue.files import write_bytes
from segue.method.conditioning import Conditioning
from segue.method.noise import Noise
from segue.method.tree import FrameKey
from segue.models.backbone import Backbone
from segue.models.lora import RANK, Lora, make_lora
from segue.words.inversion import checkpointing, denoising_loss

__all__ = ["FittedLoras", "fit_loras", "read_lora"]

LEARNING_RATE, WEIGHT_DECAY = 2e-4, 1e-2
CLOSEST = 1e-3  # how near noise levels come to the schedule's ends


@dataclass(frozen=True, eq=False)
class FittedLoras:
    """The LoRAs of a film's keyframes.

    Attributes:
        loras: one for each picture.
        which: the number of each keyframe's.
    """

    loras: tuple[Lora, ...] = ()
    which: tuple[int, ...] = ()

    def weigh(self, place: Fraction) -> Tensor:
        """The weight of each LoRA at a place of the film, (1, N): linear between two keyframes."""
        before = math.floor(place)
        weights = torch.zeros(1, len(self.loras))
        for keyframe, weight in ((before, 1 - (place - before)), (before + 1, place - before)):
            if weight:
                weights[0, self.which[keyframe]] += float(weight)
        return weights


def fit_loras(
    backbone: Backbone,
    latents: Mapping[FrameKey, Tensor],
    digests: Mapping[FrameKey, str],
    words: Callable[[Fraction], Conditioning],
    *,
    steps: int,
    seed: int,
    folder: Path,
    report: Callable[[Progress], None],
) -> FittedLoras:
    """Fit a LoRA to each keyframe, or find those that are kept.

    Args:
        backbone: the networks, which are left as they were.
        latents: the keyframes' clean latents (C, h, w), that of a loop's end too.
        digests: of the keyframes' pictures.
        words: the conditioning at a place of the film, a batch of one.
        steps: how many steps of AdamW.
        seed: which noise and noise levels depend on.
        folder: where the LoRAs are kept.
        report: is handed each step.

    Raises:
        SegueError: a loss is not finite (an overflow in float16).

    Warns:
        Notice: a kept LoRA is damaged; it is made again.
    """
    pictures = list(dict.fromkeys(digests.values()))
    firsts = [next(key for key in latents if digests[key] == picture) for picture in pictures]
    loras = []
    for i, key in enumerate(firsts):
        z, c = latents[key][None], words(key.place)
        digest = _digest(backbone, z, c, steps, seed, key)
        path = folder / f"lora-{digest}.safetensors"
        lora = read_lora(path)
        if lora is None:
            done = i * steps

            def tell(step: int, done: int = done) -> None:
                report(Progress("lora", step=done + step, steps=steps * len(firsts)))

            lora = _fit(backbone, z, c, steps, Noise(seed), key, tell)
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors = {f"{name}.down": tensor for name, tensor in lora.down.items()}
            write_bytes(path, save(tensors | {f"{name}.up": tensor for name, tensor in lora.up.items()}))
        loras.append(lora)
    return FittedLoras(tuple(loras), tuple(pictures.index(digests[key]) for key in latents))


def _fit(
    backbone: Backbone,
    z: Tensor,
    words: Conditioning,
    steps: int,
    noise: Noise,
    key: FrameKey,
    report: Callable[[int], None],
) -> Lora:
    """AdamW on the LoRA of one keyframe (1, C, h, w)."""
    lora = make_lora(backbone.network, noise.generator("lora", key))
    masters = [tensor.requires_grad_() for tensor in (*lora.down.values(), *lora.up.values())]
    adam = torch.optim.AdamW(masters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    words = words.with_lora(torch.ones(1, 1))
    with backbone.evaluating(), torch.enable_grad(), checkpointing(backbone), backbone.adapting([lora]):
        for i in range(steps):
            generator = noise.generator("lora", key, step=i + 1)
            f = torch.rand((), generator=generator).item()
            point = backbone.point(min(max(f, CLOSEST), 1 - CLOSEST))
            eps = torch.randn(z.shape, generator=generator)
            loss = denoising_loss(backbone, z, words, point, eps)

            # Scaled on the way back, so that gradients in float16 do not vanish.
            gradients = torch.autograd.grad(loss.sum() * z.numel(), masters)
            for master, gradient in zip(masters, gradients, strict=True):
                master.grad = gradient / z.numel()
            if not torch.isfinite(loss).all() or not all(torch.isfinite(gradient).all() for gradient in gradients):
                raise SegueError(
                    f"fit_model: the loss of {backbone.name} is not finite in step {i + 1}; "
                    "load it with dtype bfloat16 or float32"
                )
            adam.step()
            report(i + 1)
    return Lora(*({name: tensor.detach() for name, tensor in part.items()} for part in (lora.down, lora.up)))


def _digest(backbone: Backbone, z: Tensor, words: Conditioning, steps: int, seed: int, key: FrameKey) -> str:
    """A digest of what determines a LoRA."""
    plain = {"model": backbone.fingerprint(), "steps": steps, "seed": seed, "key": str(key.place), "rank": RANK}
    digest = hashlib.sha256(json.dumps({**plain, "shape": list(z.shape)}, sort_keys=True).encode())
    for tensor in (z, *words.positive.values()):
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_lora(path: Path) -> Lora | None:
    """A LoRA that was kept; None if there is none, or a damaged one."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        warn(f"{path} is damaged and made again: {error}")
        return None
    parts = [{n.removesuffix(end): t for n, t in tensors.items() if n.endswith(end)} for end in (".down", ".up")]
    return Lora(*parts)
