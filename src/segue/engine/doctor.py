"""What ``segue doctor`` finds out about a model on this machine, check by check.

Nobody can try every checkpoint on every device. These checks tell whoever has both whether films can be trusted: are
the weights numbers, does the autoencoder give a picture back, does the network recover a noisy one, does a leg come out
as in diffusers' own pipeline, is a short film made, and at what cost.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import psutil
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from segue.engine.dialogue import Progress
from segue.engine.interpolator import Callback, Interpolator
from segue.errors import SegueError
from segue.machine import is_out_of_memory, within_memory
from segue.method.diffusion import CLEAN
from segue.models.backbone import Sampling
from segue.models.families import backbone_of
from segue.models.flux import pack
from segue.pictures.images import Source, fit, load
from segue.pictures.tensors import to_tensor

__all__ = [
    "Finding",
    "check_autoencoder",
    "check_film",
    "check_network",
    "check_pipeline",
    "check_weights",
    "describe_machine",
    "draw_pictures",
    "examine",
    "square_of",
]

LEAST_PSNR = 15.0  # of an autoencoder, in dB; those of published checkpoints are at 25 to 40
SPREADS = (1 / 3, 3.0)  # of latents of a picture, which networks are trained to take with a spread of about 1
FAINT, MOST_ERROR = 0.3, 0.9  # the noise level, and the error there beside a blind guess's (``check_network``)
# The largest difference to diffusers' pictures, with values in [0, 1]; latents there have the network's precision.
BOUNDS = {torch.float32: 0.01, torch.float16: 0.1, torch.bfloat16: 0.25}
STEPS, PROMPT, GUIDANCE = 8, "a red ball", 3.0
FRAMES = 5
OUT = "load the model with --dtype bfloat16 or float32"
FLAT = 2.0  # grey levels of 255: a frame with a smaller spread shows nothing

# How the pipelines of flow matching take latents (B, C, h, w), and guidance where another name or more is needed.
FLOW_LATENTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Stable Diffusion 3": lambda z: z,
    "FLUX.1": pack,
    "Chroma": pack,
    "FLUX.2": lambda z: pixel_unshuffle(z, 2),
    "FLUX.2 Klein": lambda z: pixel_unshuffle(z, 2),
    "Qwen-Image": pack,
    "Z-Image": lambda z: z,
    "Sana": lambda z: z,
}
FLOW_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "Qwen-Image": {"true_cfg_scale": GUIDANCE, "negative_prompt": ""},
    "Sana": {"guidance_scale": GUIDANCE, "use_resolution_binning": False},
}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        text: what was measured.
        problem: what is wrong, and the way out; empty if nothing is.
    """

    check: str
    text: str
    problem: str = ""


def examine(
    interpolator: Interpolator,
    images: Sequence[Source] = (),
    *,
    sheet: Path,
    preset: str = "draft",
    callback: Callback | None = None,
) -> Iterator[Finding]:
    """Check a model, one finding at a time; a check that cannot be finished is the last one.

    Args:
        interpolator: the model.
        images: two pictures; drawn ones if not given.
        sheet: where the contact sheet of the film is written.
        preset: the preset of the film.
        callback: is handed the film's progress, and notices.
    """
    backbone: Any = interpolator.backbone
    pictures = list(images) or draw_pictures(backbone.native_size)
    image, device = square_of(pictures[0], backbone), _device(backbone)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    checks: Sequence[tuple[str, Callable[[], Finding]]] = (
        ("weights", lambda: check_weights(backbone)),
        ("autoencoder", lambda: check_autoencoder(backbone, image)),
        ("network", lambda: check_network(backbone, image)),
        ("pipeline", lambda: check_pipeline(backbone, image)),
        ("film", lambda: check_film(interpolator, pictures, sheet, preset=preset, callback=callback)),
    )
    for name, check in checks:
        try:
            with within_memory():
                found = check()
        except SegueError as error:
            yield Finding(name, "stopped", str(error))
            return
        yield found
    yield Finding("memory", describe_memory(device))


def check_weights(backbone: Any) -> Finding:
    """How many weights there are.

    Raises:
        SegueError: some are not finite numbers.
    """
    networks = {name: part for name, part in backbone.pipe.components.items() if isinstance(part, nn.Module)}
    count = sum(weight.numel() for network in networks.values() for weight in network.parameters())
    size = sum(weight.nbytes for network in networks.values() for weight in network.parameters())
    text = f"{count / 1e6:,.1f} million in {', '.join(networks)}: {_gigabytes(size)}"
    for part, network in networks.items():
        for name, weight in chain(network.named_parameters(), network.named_buffers()):
            if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
                dtype = _name(weight.dtype)
                remedy = "the file is damaged, or made by a broken merge: download or convert it again"
                if weight.dtype == torch.float16:
                    remedy += "; if --dtype float32 finds nothing, float16 is too small for it"
                raise SegueError(f"{part}: {name} holds values that are not numbers ({dtype}); {remedy}")
    return Finding("weights", text)


def check_autoencoder(backbone: Any, image: Tensor) -> Finding:
    """Whether the autoencoder gives a picture (1, 3, H, W) in [-1, 1] back."""
    again = backbone.decode(backbone.encode(image), screened=False)
    if not bool(torch.isfinite(again).all()):
        raise SegueError(f"frames are black: the VAE overflows in {_name(backbone.pipe.vae.dtype)}; {OUT}")
    psnr = -10 * float(((again - image) / 2).square().mean().log10())
    text = f"encoded and decoded with a PSNR of {psnr:.1f} dB"
    if psnr < LEAST_PSNR:
        return Finding(
            "autoencoder", text, "the VAE does not give pictures back: its weights are damaged or not trained"
        )
    return Finding("autoencoder", text)


def check_network(backbone: Any, image: Tensor) -> Finding:
    """Whether latents of a picture (1, 3, H, W) are as the network expects them, and whether it takes noise off them.

    The error of z_0 beside that of the best multiple of the noisy latent, a z with a = alpha P / (alpha^2 P + sigma^2)
    and P the mean square of z_0: a network that knows nothing is above 1.
    """
    z = backbone.encode(image)
    spread, error = float(z.square().mean().sqrt()), _error(backbone, z)
    text = f"latents with a spread of {spread:.2f}, noise taken off with {error:.2f} of a blind guess's error"
    if not math.isfinite(error):
        raise SegueError(f"the network overflows in {_name(backbone.network.dtype)}; {OUT}")
    if not SPREADS[0] < spread < SPREADS[1]:
        scale = backbone.pipe.vae.config.get("scaling_factor")
        of = "the VAE's normalisation" if scale is None else f"the VAE's scaling_factor {scale:g}"
        problem = f"{of} gives latents with a spread of {spread:.2f} instead of about 1"
        return Finding("network", text, f"{problem}: the VAE, or its config.json, is another model's")
    if error > MOST_ERROR:
        problem = _other_prediction(backbone, z) or (
            "the network does not take noise off: its weights are not trained, or the VAE is another model's"
        )
        return Finding("network", text, problem)
    return Finding("network", text)


def _error(backbone: Any, z: Tensor) -> float:
    """The squared error of z_0 as the network sees it at little noise, beside that of the best multiple."""
    point, words = backbone.point(FAINT), backbone.embed([""], [""])
    eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    noisy = point.alpha * z + point.sigma * eps
    with backbone.evaluating():
        found = (noisy - point.sigma * backbone.predict(noisy, point, words)) / point.alpha
    power = z.square().mean()
    guess = power * point.sigma**2 / (point.alpha**2 * power + point.sigma**2)
    return float((found - z).square().mean() / guess)


def _other_prediction(backbone: Any, z: Tensor) -> str:
    """What is wrong if the network predicts something else than its scheduler says; empty if not."""
    pipe: Any = backbone.pipe
    said = pipe.scheduler.config.get("prediction_type")
    if said not in ("epsilon", "v_prediction"):
        return ""
    other = "epsilon" if said == "v_prediction" else "v_prediction"
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=other)
    if _error(_beside(backbone, type(pipe).__name__, scheduler), z) > MOST_ERROR:
        return ""
    return f"the network predicts {other}, not {said}: load it with --prediction-type {other}"


def check_pipeline(backbone: Any, image: Tensor) -> Finding:
    """One leg from the middle, with guidance, against diffusers' own pipeline of the family."""
    family = backbone.family
    if backbone.takes_images:
        return Finding("pipeline", "not compared: the pipe has an IP-Adapter")
    if family.network != "unet" and family.name not in FLOW_LATENTS:
        return Finding("pipeline", f"not compared: no comparison is known for {family.name}")
    try:
        leg = _unet_leg if family.network == "unet" else _flow_leg
        kind, found, expected = leg(backbone, image)
    except _PipelineError as error:
        return Finding("pipeline", "not compared", str(error))
    dtype = backbone.network.dtype
    difference, bound = float((found / 2 + 0.5 - expected).abs().max()), BOUNDS.get(dtype, max(BOUNDS.values()))
    text = f"largest difference to {kind} {difference:.1g} of 1 (at most {bound:g} in {_name(dtype)})"
    if difference <= bound:
        return Finding("pipeline", text)
    if not math.isfinite(difference):
        raise SegueError(f"the pipeline overflows in {_name(dtype)}; {OUT}")
    remedy = "" if dtype == torch.float32 else "; if --dtype float32 agrees, it is rounding"
    return Finding("pipeline", text, f"segue and diffusers denoise differently{remedy}; please report this model")


class _PipelineError(SegueError):
    """Diffusers' own pipeline fails, which says nothing of segue."""


def _unet_leg(backbone: Any, image: Tensor) -> tuple[str, Tensor, Tensor]:
    """Half of the steps of DDIM on the trailing grid, by segue and by diffusers' image to image."""
    kind = next(name for name in backbone.family.others if name.endswith("Img2ImgPipeline"))
    options = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False, "thresholding": False}
    scheduler = DDIMScheduler.from_config(backbone.pipe.scheduler.config, **options)
    ours = _beside(backbone, kind, scheduler)
    pipe, z = ours.pipe, ours.encode(image)
    how = Sampling(solver="ddim", num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    with backbone.evaluating():
        expected = _call(
            pipe,
            PROMPT,
            image=z,
            strength=0.5,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(0),  # of which the pipe draws the noise alone
        )
        scheduler.set_timesteps(STEPS)
        start = ours.point(int(scheduler.timesteps[STEPS // 2]) / scheduler.config.num_train_timesteps)
        dtype = ours.network.dtype
        eps = randn_tensor(z.shape, generator=torch.Generator().manual_seed(0), dtype=dtype).float()
        words = ours.embed([PROMPT], [""])
        found = ours.denoise(start.alpha * z + start.sigma * eps, words, start, sampling=how)
        return kind, ours.decode(found, screened=False), expected


def _flow_leg(backbone: Any, image: Tensor) -> tuple[str, Tensor, Tensor]:
    """Euler steps from the middle, evenly in sigma, by segue and by diffusers' pipeline given the sigmas."""
    family = backbone.family
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)  # which takes sigmas as they are
    ours = _beside(backbone, family.pipe, scheduler)
    pipe, z = ours.pipe, ours.encode(image)
    how = Sampling(solver="euler", num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    start = ours.point(0.5)
    leg: Any = ours.leg(start, CLEAN, how)
    eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    noisy = start.alpha * z + start.sigma * eps
    with backbone.evaluating():
        expected = _call(
            pipe,
            PROMPT,
            height=image.shape[2],
            width=image.shape[3],
            sigmas=[time / 1000 for time in leg.timesteps],
            num_inference_steps=len(leg),
            latents=FLOW_LATENTS[family.name](noisy),
            **FLOW_OPTIONS.get(family.name, {"guidance_scale": GUIDANCE}),
        )
        found = ours.denoise(noisy, ours.embed([PROMPT], [""]), start, sampling=how)
        return family.pipe, ours.decode(found, screened=False), expected


def _beside(backbone: Any, kind: str, scheduler: Any) -> Any:
    """Another pipeline over the same networks, with a scheduler of its own, as a backbone."""
    pipe, code = backbone.pipe, getattr(diffusers, kind)
    taken = signature(code.__init__).parameters
    known = {**pipe.config, **pipe.components, "scheduler": scheduler, "safety_checker": None}
    known |= {"requires_safety_checker": False, "add_watermarker": False}
    other = code(**{name: value for name, value in known.items() if name in taken})
    other.set_progress_bar_config(disable=True)
    return backbone_of(other)


def _call(pipe: Any, prompt: str, **options: Any) -> Tensor:
    """The pictures of a pipeline, (B, 3, H, W) in [0, 1], without what diffusers says of its own future.

    Raises:
        _PipelineError: the pipeline fails.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            images: Tensor = pipe(prompt=prompt, output_type="pt", **options).images
        except Exception as error:  # whatever a pipeline raises for a checkpoint that does not fit it
            if is_out_of_memory(error):
                raise
            said = " ".join(str(error).split())[:200]
            raise _PipelineError(
                f"diffusers' own {type(pipe).__name__} fails: {type(error).__name__}: {said}"
            ) from error
    return images.float().cpu()


def check_film(
    interpolator: Interpolator,
    images: Sequence[Source],
    sheet: Path,
    *,
    preset: str = "draft",
    callback: Callback | None = None,
) -> Finding:
    """Whether a film of five frames is made, and how fast; its contact sheet is written."""
    last, begun = Progress("frames"), time.monotonic()

    def watch(told: Any) -> None:
        nonlocal last
        if isinstance(told, Progress) and told.stage == "frames":
            last = told
        if callback:
            callback(told)

    film = interpolator(*images, num_frames=FRAMES, preset=preset, callback=watch)
    seconds = time.monotonic() - begun
    film.contact_sheet(sheet)
    each = last.seconds / max(last.step, 1)
    text = f"{FRAMES} frames in {seconds:.1f} s, {each:.3g} s a step, all included; contact sheet {sheet}"
    made = [frame for frame, given in zip(film.frames, film.keyframe_flags, strict=True) if not given]
    if any(np.asarray(frame.convert("RGB"), np.float32).std() < FLAT for frame in made):
        return Finding("film", text, f"frames show nothing: the networks overflow, or a safety checker acted; {OUT}")
    return Finding("film", text)


def describe_machine(backbone: Any) -> str:
    """The device, its memory and the precision of the networks."""
    device, pipe = _device(backbone), backbone.pipe
    if device.type == "cuda":
        name, memory = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[1]
    else:
        name, memory = f"{torch.get_num_threads()} threads", psutil.virtual_memory().total
    parts = {part: getattr(pipe, part).dtype for part in backbone.family.networks}
    precisions = dict.fromkeys(parts.values())
    texts = [f"{_name(dtype)} ({', '.join(p for p in parts if parts[p] == dtype)})" for dtype in precisions]
    precision = ", ".join(texts) if len(precisions) > 1 else _name(next(iter(precisions)))
    return f"{device} ({name}, {_gigabytes(memory)}), {precision}"


def describe_memory(device: torch.device) -> str:
    """What was taken at most on an accelerator; elsewhere what the process holds."""
    if device.type == "cuda":
        return f"{_gigabytes(torch.cuda.max_memory_allocated(device))} at most on the device"
    return f"{_gigabytes(psutil.Process().memory_info().rss)} in the process"


def draw_pictures(side: int) -> list[Image.Image]:
    """A ball and a house on white."""
    drawn = []
    for number in range(2):
        picture, u = Image.new("RGB", (2 * side, 2 * side), "white"), side / 8
        draw = ImageDraw.Draw(picture)
        if number:
            draw.rectangle((4 * u, 6 * u, 12 * u, 14 * u), fill=(47, 110, 190))
            draw.polygon([(3 * u, 6 * u), (13 * u, 6 * u), (8 * u, 2 * u)], fill=(70, 60, 80))
        else:
            draw.ellipse((3 * u, 3 * u, 13 * u, 13 * u), fill=(214, 69, 47))
            draw.ellipse((5 * u, 5 * u, 8 * u, 8 * u), fill=(250, 190, 160))
        drawn.append(picture.resize((side, side), Image.Resampling.LANCZOS))
    return drawn


def square_of(image: Source, backbone: Any) -> Tensor:
    """A picture as the network works on it, a square of its native size: (1, 3, H, W) in [-1, 1]."""
    side = backbone.native_size
    return to_tensor([fit(load(image), (side, side), "cover")])


def _device(backbone: Any) -> torch.device:
    """Where the networks compute."""
    found: torch.device = backbone.pipe._execution_device
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
