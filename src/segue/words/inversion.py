"""Textual inversion: the embeddings of the keyframes' prompts are fitted to the images (the paper's section 4.2).

For a keyframe with clean latent z_0, the whole embedding c is moved, from its prompt's, to lower

    L(c) = E || eps_hat(alpha_t z_0 + sigma_t eps; t, c) - eps ||^2,    eps ~ N(0, I), t over the schedule,

by Adam; the norm is taken as the mean over the latent's elements. (Textual inversion is due to Gal et al., "An Image
is Worth One Word", 2022, arXiv 2208.01618, where it finds the embedding of one token.)

The negative embedding c_neg is one for all keyframes, and is fitted too, in one of two ways:

- Guidance inside the loss (as in the released code): eps_hat is the guided prediction
  eps_hat(c_neg) + g (eps_hat(c) - eps_hat(c_neg)), so one loss moves c and c_neg.
- Else c_neg has a loss of its own, L(c_neg) summed over the keyframes on the same noise: it becomes what the
  keyframes have in common, and guidance at generation pushes a frame from that towards what is its own. Embeddings
  of keyframes then do not depend on which other keyframes there are.

Each iteration is one step on one batch of all keyframes. (The released code steps once per image, which gives c_neg
two steps an iteration.)

The embeddings are float32 masters over a network of any precision. The loss is scaled to the sum over the latent's
elements for the way back through the network, so that float16 gradients do not vanish, and scaled back after it.

What is fitted so far is kept every few seconds, with Adam's moments: a fit that was interrupted goes on there, and ends
with the same numbers, for its noise depends on the iteration and not on what was drawn before.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import interpolate

from segue.errors import SegueError, warn
from segue.files import write_bytes
from segue.method.conditioning import Conditioning
from segue.method.diffusion import Points, diffuse
from segue.method.noise import Noise
from segue.method.tree import FrameKey
from segue.models.backbone import Backbone
from segue.pictures.tensors import to_tensor
from segue.settings.kinds import InversionSettings, MorphSettings, fields

__all__ = ["Inverted", "augment", "checkpointing", "denoising_loss", "invert"]

LARGE = 200_000_000  # parameters from which a network trades time for memory by gradient checkpointing
TIMESTEPS = {"all": (0.0, 1.0), "middle": (1 / 3, 2 / 3)}  # the range of noise levels f that are drawn from
CLOSEST = 1e-3  # how near f comes to the schedule's ends
SMALLEST_CROP = 0.7  # of the area
ASPECTS = (3 / 4, 4 / 3)  # of a crop, as a multiple of the picture's own
CROP_TRIES = 10  # after which the whole picture is taken
JITTER = {"brightness": 0.1, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}  # factors 1 +- these; hue in turns
LUMA = (0.299, 0.587, 0.114)
KEPT_SECONDS = 10.0  # between two times at which an unfinished fit is kept
MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's, as torch names them


@dataclass(frozen=True, eq=False)
class Inverted:
    """Fitted words.

    Attributes:
        words: the keyframes' embeddings, (N, L, D), and the negative one, the same for all.
        losses: the keyframes' mean loss before each step, as drawn: a noisy curve.
    """

    words: Conditioning
    losses: list[float]


def invert(
    backbone: Backbone,
    latents: Tensor,
    words: Conditioning,
    settings: MorphSettings,
    noise: Noise,
    keys: Sequence[FrameKey],
    *,
    pictures: Sequence[Image.Image] = (),
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inverted:
    """Fit the embeddings of keyframes and the negative one that they share.

    Everything is left as it was: gradients, modes, checkpointing and weights of the networks, and global random
    state; after an exception too.

    Args:
        backbone: the networks.
        latents: the keyframes' clean latents, (N, C, h, w) float32.
        words: where the fit starts, N samples. The negative starts from the first sample's.
        settings: ``inversion_*``, and ``guidance_scale`` where guidance is inside the loss.
        noise: named noise; noise, noise levels and crops of a keyframe depend on its key and the iteration alone.
        keys: the keyframes' keys.
        pictures: the keyframes as they were encoded; needed for augmentation.
        folder: where results, and fits that are not finished, are kept and found again, by what they are made from;
            none are without it.
        progress: called after each iteration with how many are done and how many there will be.

    Raises:
        SegueError: a loss is not finite (an overflow in float16).

    Warns:
        Notice: a kept result is damaged; it is made again.
    """
    if settings.inversion == 0:
        return Inverted(words, [])
    if settings.inversion_augment and len(pictures) != len(keys):
        raise ValueError(f"augmentation needs the pictures of all {len(keys)} keyframes, not {len(pictures)}")
    path = (
        folder / f"{_digest(backbone, latents, words, settings, noise, keys, pictures)}.safetensors" if folder else None
    )
    if path and (found := _read_kept(path, words)):
        return found
    unfinished = path.with_suffix(".unfinished") if path else None
    strength = backbone.scaling_images(settings.image_prompt)
    with backbone.evaluating(), torch.enable_grad(), checkpointing(backbone), strength:
        inverted = _fit(backbone, latents, words, settings, noise, keys, pictures, unfinished, progress)
    if path and unfinished:
        _keep(path, inverted)
        unfinished.unlink(missing_ok=True)
    return inverted


def denoising_loss(
    backbone: Backbone, latents: Tensor, words: Conditioning, at: Points, eps: Tensor, guidance_scale: float = 1.0
) -> Tensor:
    """|| eps_hat(alpha_t z_0 + sigma_t eps; t, c) - eps ||^2 of each sample, as the mean over its elements.

    Args:
        backbone: the networks.
        latents: z_0, (B, C, h, w).
        words: c, B samples; the loss can be differentiated with respect to its tensors.
        at: the noise points (t, alpha_t, sigma_t), one for all samples or one each.
        eps: (B, C, h, w).
        guidance_scale: above 1, eps_hat is the guided prediction.

    Returns:
        (B,) in the latents' dtype.
    """
    eps_hat = backbone.predict(diffuse(latents, eps, at), at, words, guidance_scale)
    loss: Tensor = (eps_hat - eps).square().flatten(1).mean(1)
    return loss


def augment(images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Each image cropped, scaled back to its size, and recoloured a little, as the released code does.

    A crop has 70 to 100 % of the area, and 3/4 to 4/3 times the image's aspect. Brightness changes by up to a tenth,
    contrast and saturation by up to a fifth, the hue by up to a tenth of a turn, in any order.

    Args:
        images: (N, 3, H, W) in [-1, 1].
        generators: one for each image, on the CPU.

    Returns:
        (N, 3, H, W) in [-1, 1].
    """
    return torch.stack([_augment_one(image, generator) for image, generator in zip(images, generators, strict=True)])


def _fit(
    backbone: Backbone,
    latents: Tensor,
    words: Conditioning,
    settings: MorphSettings,
    noise: Noise,
    keys: Sequence[FrameKey],
    pictures: Sequence[Image.Image],
    unfinished: Path | None,
    progress: Callable[[int, int], None] | None,
) -> Inverted:
    """Adam on the embeddings, from where an unfinished fit was left."""
    guidance_scale = settings.guidance_scale if settings.inversion_guidance else 1.0
    guided = guidance_scale > 1
    fits_negative = settings.inversion_negative and backbone.takes_negatives
    shared = words.with_negative_prompt_of(words.take([0] * len(keys)))
    prompt = words.text.detach().clone().requires_grad_()  # (N, L, D)
    negative = words.negative_text[:1].detach().clone().requires_grad_(fits_negative)  # (1, L, D)
    masters = [prompt, negative] if fits_negative else [prompt]
    adam = torch.optim.Adam(masters, lr=settings.inversion_learning_rate)
    images = to_tensor(list(pictures)) if settings.inversion_augment else None
    draws = settings.inversion_batch
    who = torch.arange(len(keys)).repeat_interleave(draws)  # (N draws,), the keyframe of each draw
    elements = latents[0].numel()
    losses = _resume(unfinished, masters, adam) if unfinished else []
    kept = time.monotonic()
    for i in range(len(losses), settings.inversion):
        if images is not None:
            with torch.no_grad():
                latents = backbone.encode(augment(images, [noise.generator("augment", key, step=i) for key in keys]))
        z, c = latents[who], shared.take(who.tolist())  # one sample for each draw
        c = c.with_text(prompt[who], negative.expand(len(who), -1, -1))
        at, eps = _draw(backbone, settings, noise, keys, latents.shape[1:], i)
        if fits_negative and not guided:
            z, eps, at = torch.cat([z, z]), torch.cat([eps, eps]), at * 2
            c = Conditioning.stack([c, c.negated()])
        loss = denoising_loss(backbone, z, c, at, eps, guidance_scale)
        losses.append(float(loss.detach()[: len(who)].mean()))

        # Each keyframe's loss is the mean over its draws; they are summed.
        gradients = torch.autograd.grad(loss.sum() * elements, masters)
        for master, gradient in zip(masters, gradients, strict=True):
            master.grad = gradient / (elements * draws)
        if not math.isfinite(losses[-1]) or not all(torch.isfinite(gradient).all() for gradient in gradients):
            raise SegueError(
                f"textual inversion: the loss of {backbone.name} is not finite in iteration {i + 1}; "
                "load it with dtype bfloat16 or float32"
            )
        adam.step()
        if unfinished and time.monotonic() - kept >= KEPT_SECONDS:
            _keep_unfinished(unfinished, masters, adam, losses)
            kept = time.monotonic()
        if progress:
            progress(i + 1, settings.inversion)
    if fits_negative:
        words = shared.with_text(words.text, negative.detach().expand(len(keys), -1, -1).clone())
    return Inverted(words.with_text(prompt.detach(), words.negative_text), losses)


def _draw(
    backbone: Backbone,
    settings: InversionSettings,
    noise: Noise,
    keys: Sequence[FrameKey],
    shape: Sequence[int],
    iteration: int,
) -> tuple[list[Any], Tensor]:
    """Noise points, one for each draw of each keyframe, and noise of the latents' shape, (N draws, C, h, w)."""
    low, high = TIMESTEPS[settings.inversion_timesteps]
    points, tensors = [], []
    for key in keys:
        for draw in range(settings.inversion_batch):
            generator = noise.generator("inversion", key, candidate=draw, step=iteration)
            f = low + (high - low) * torch.rand((), generator=generator).item()
            points.append(backbone.point(min(max(f, CLOSEST), 1 - CLOSEST)))
            tensors.append(torch.randn(tuple(shape), generator=generator))
    return points, torch.stack(tensors)


def _augment_one(image: Tensor, generator: torch.Generator) -> Tensor:
    """One image (3, H, W), cropped and recoloured."""
    height, width = image.shape[1:]
    y, x, h, w = _crop(height, width, generator)
    scaled = interpolate(image[None, :, y : y + h, x : x + w], (height, width), mode="bicubic", antialias=True)[0]
    pixels = (scaled.clamp(-1, 1) + 1) / 2
    changes = {name: limit * (2 * _uniform(generator) - 1) for name, limit in JITTER.items()}
    for i in torch.randperm(len(changes), generator=generator).tolist():
        pixels = _recolour(pixels, *list(changes.items())[i])
    return pixels * 2 - 1


def _crop(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop: the first of some tries that lies in the image."""
    low, high = map(math.log, ASPECTS)
    for _ in range(CROP_TRIES):
        share = SMALLEST_CROP + (1 - SMALLEST_CROP) * _uniform(generator)
        aspect = math.exp(low + (high - low) * _uniform(generator))
        h, w = round(height * math.sqrt(share / aspect)), round(width * math.sqrt(share * aspect))
        if 0 < h <= height and 0 < w <= width:
            top, left = (round(free * _uniform(generator)) for free in (height - h, width - w))
            return top, left, h, w
    return 0, 0, height, width


def _recolour(pixels: Tensor, name: str, change: float) -> Tensor:
    """Pixels (3, H, W) in [0, 1] with one of brightness, contrast, saturation and hue changed by so much."""
    if name == "hue":
        return _turn_hue(pixels, change)
    grey = (pixels * torch.tensor(LUMA).reshape(3, 1, 1)).sum(0, keepdim=True)  # (1, H, W)
    origin = {"brightness": torch.zeros(()), "contrast": grey.mean(), "saturation": grey}[name]
    return (origin + (1 + change) * (pixels - origin)).clamp(0, 1)


def _turn_hue(pixels: Tensor, turns: float) -> Tensor:
    """Pixels (3, H, W) in [0, 1] with the hue of HSV turned; value and saturation stay."""
    value, chroma = pixels.amax(0), pixels.amax(0) - pixels.amin(0)
    red, green, blue = pixels
    sector = torch.where(
        value == red, (green - blue), torch.where(value == green, (blue - red), (red - green))
    ) / chroma.clamp(min=1e-12)
    sector = sector + torch.where(value == red, 0.0, torch.where(value == green, 2.0, 4.0)) + 6 * turns
    # A channel falls from the value by the chroma, as far as the hue is from that channel's sectors.
    k = (torch.tensor([5.0, 3.0, 1.0]).reshape(3, 1, 1) + sector) % 6
    turned: Tensor = value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
    return turned


def _uniform(generator: torch.Generator) -> float:
    return torch.rand((), generator=generator, dtype=torch.float64).item()


@contextmanager
def checkpointing(backbone: Backbone) -> Iterator[None]:
    """Gradient checkpointing in a large denoising network; as it was afterwards."""
    network = backbone.network
    if sum(weight.numel() for weight in network.parameters()) < LARGE:
        yield
        return
    names = ("gradient_checkpointing", "_gradient_checkpointing_func")
    before = [(module, {n: vars(module)[n] for n in names if n in vars(module)}) for module in network.modules()]
    try:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
        yield
    finally:
        for module, values in before:
            for name in names:
                vars(module).pop(name, None)
            vars(module).update(values)


# What is kept on disk.


def _digest(
    backbone: Backbone,
    latents: Tensor,
    words: Conditioning,
    settings: MorphSettings,
    noise: Noise,
    keys: Sequence[FrameKey],
    pictures: Sequence[Image.Image],
) -> str:
    """A digest of what determines the result: images, words, model, settings and seed."""
    plain = {
        "model": backbone.fingerprint(),
        "settings": {name: getattr(settings, name) for name in fields(InversionSettings)},
        "guidance_scale": settings.guidance_scale if settings.inversion_guidance else None,
        "image_prompt": settings.image_prompt,
        "seed": noise.seed,
        "keys": [str(Fraction(key.place)) for key in keys],
        "sizes": [picture.size for picture in pictures],
        "shapes": [list(tensor.shape) for tensor in (latents, words.text, words.negative_text)],
    }
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    # The pictures where they are there: the latents are made from them, up to rounding.
    for data in [picture.convert("RGB").tobytes() for picture in pictures] or [_bytes(latents)]:
        digest.update(data)
    for tensor in (*words.positive.values(), *words.negative.values()):
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    data: bytes = tensor.detach().float().contiguous().numpy().tobytes()
    return data


def _keep(path: Path, inverted: Inverted) -> None:
    """Write a result."""
    _write(path, {"prompt": inverted.words.text, "negative": inverted.words.negative_text}, inverted.losses)


def _keep_unfinished(path: Path, masters: Sequence[Tensor], adam: torch.optim.Adam, losses: Sequence[float]) -> None:
    """Write what is fitted so far, with Adam's moments."""
    tensors = {f"{i}.value": master.detach() for i, master in enumerate(masters)}
    tensors |= {f"{i}.{name}": adam.state[master][name] for i, master in enumerate(masters) for name in MOMENTS}
    _write(path, tensors, losses)


def _resume(path: Path, masters: Sequence[Tensor], adam: torch.optim.Adam) -> list[float]:
    """Go on where an unfinished fit was left; its losses so far, none if there is none."""
    try:
        tensors = load_file(path)
        values = [tensors[f"{i}.value"] for i in range(len(masters))]
        moments = [{name: tensors[f"{i}.{name}"] for name in MOMENTS} for i in range(len(masters))]
        losses: list[float] = tensors["losses"].tolist()
    except (OSError, KeyError, SafetensorError):  # none, or a damaged one
        return []
    for master, value, state in zip(masters, values, moments, strict=True):
        with torch.no_grad():
            master.copy_(value)
        adam.state[master] = {"step": torch.tensor(float(len(losses))), **state}
    return losses


def _write(path: Path, tensors: Mapping[str, Tensor], losses: Sequence[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save({**found, "losses": torch.tensor(losses, dtype=torch.float64)}))


def _read_kept(path: Path, words: Conditioning) -> Inverted | None:
    """A result that was kept; None if there is none, or a damaged one."""
    try:
        tensors = load_file(path)
        prompt, negative, losses = tensors["prompt"], tensors["negative"], tensors["losses"]
    except FileNotFoundError:
        return None
    except (OSError, KeyError, SafetensorError) as error:
        warn(f"{path} is damaged and made again: {error}")
        return None
    if prompt.shape != words.text.shape or negative.shape != words.negative_text.shape:
        warn(f"{path} is damaged and made again: its tensors have other shapes")
        return None
    return Inverted(words.with_text(prompt, negative), losses.tolist())
