"""The Stable Diffusion 1.x and 2.x family: any pipe of diffusers that holds one of its checkpoints.

    z_0 = (mean of the VAE's posterior - shift) scaling            encode
    eps_hat = eps(z; t, c_neg) + g (eps(z; t, c) - eps(z; t, c_neg))    guidance, both in one batch

The pipe stays the user's: LoRA, offloading, half precision, slicing and compiled networks are diffusers' business and
keep working, because the networks are called as the pipe calls them, and nothing of it is left changed.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any

import torch
from diffusers import (
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor, nn

from segue.errors import SegueError, warn
from segue.machine import free_memory
from segue.method.diffusion import CLEAN, NoisePoint, Points, per_sample
from segue.method.noise import Noise
from segue.method.tree import FrameKey
from segue.models.backbone import Sampling
from segue.models.conditioning import TextConditioning, cut
from segue.models.controlnets import check_fit, residuals
from segue.models.fingerprint import active_adapters, digest_of, parts_of
from segue.models.solvers import Leg, Schedule, grid, warn_of_solver

__all__ = ["TILED_PIXELS", "StableDiffusion"]

# What denoising takes beside the weights, measured at Stable Diffusion 2.1's shape in float32: bytes for each pixel of
# the image, in each branch of guidance, in a UNet whose first layers are that wide.
BYTES_PER_PIXEL, WIDTH = 1600, 320
FREE_SHARE = 0.7  # of the free memory, which others use too
# What a UNet's configuration says where it takes more than text, such as the images of an IP-Adapter.
BEYOND_TEXT = (
    "addition_embed_type",
    "time_cond_proj_dim",
    "encoder_hid_dim_type",
    "class_embed_type",
    "num_class_embeds",
)
FEATURE_NOISE, FEATURE_DRAWS = 0.15, 2
TILED_PIXELS = 1024 * 1024  # above this, decoding one image in float32 takes more than 3 GB


class StableDiffusion:
    """A Stable Diffusion checkpoint as a backbone.

    Args:
        pipe: a loaded pipe of diffusers, for text to image or image to image, with or without ControlNet.
        controlnet: one ControlNet or several, beside those of the pipe (which it then replaces here); they are moved
            to the device on which the pipe runs.

    Raises:
        SegueError: the pipe is of another family, or a ControlNet is for another model.

    One thread computes at a time: a second one that makes a film waits for the first.
    """

    def __init__(self, pipe: Any, controlnet: Any = None) -> None:
        _check_family(pipe)
        self.pipe = pipe
        self._own_controlnets = _several(controlnet)
        self._schedule = (pipe.scheduler.config, Schedule.of(pipe.scheduler))
        self._check_controlnets()
        for network in self._own_controlnets:
            network.to(pipe._execution_device)
        self._alone = RLock()
        self._depth = 0  # of nested ``_frozen``
        self._facts: dict[str, Any] = {}  # of the networks, while they are frozen

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_alone"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "_alone": RLock()}

    @property
    def name(self) -> str:
        """The name or the folder that the pipe was loaded from; its class where it has none."""
        return str(getattr(self.pipe, "name_or_path", None) or type(self.pipe).__name__)

    @property
    def marks(self) -> Sequence[str]:
        """What tells what the pipe was made for: the class of its scheduler, the names of its adapters that act."""
        return [type(self.pipe.scheduler).__name__, *active_adapters(self.pipe)]

    @property
    def schedule(self) -> Schedule:
        """The training schedule, by the scheduler that the pipe has now."""
        config = self.pipe.scheduler.config
        if config is not self._schedule[0]:
            self._schedule = (config, Schedule.of(self.pipe.scheduler))
        return self._schedule[1]

    @property
    def controlnets(self) -> list[nn.Module]:
        """The ControlNets, in the order of a conditioning's controls."""
        return self._own_controlnets or _several(getattr(self.pipe, "controlnet", None))

    @property
    def _device(self) -> torch.device:
        """Where the networks compute."""
        found: torch.device = self._fact("device", lambda: self.pipe._execution_device)
        return found

    @property
    def _vae_dtype(self) -> torch.dtype:
        found: torch.dtype = self._fact("vae dtype", lambda: self.pipe.vae.dtype)
        return found

    def _fact(self, name: str, find: Callable[[], Any]) -> Any:
        """What diffusers looks for in all modules of a network, found once in each outermost ``_frozen``."""
        if not self._depth:
            return find()
        if name not in self._facts:
            self._facts[name] = find()
        return self._facts[name]

    @property
    def latent_channels(self) -> int:
        """C of a latent (B, C, h, w)."""
        return int(self.pipe.unet.config.in_channels)

    @property
    def latent_scale(self) -> int:
        """Pixels of an image along one side of a latent's pixel."""
        return int(self.pipe.vae_scale_factor)

    @property
    def multiple_of(self) -> int:
        """What widths and heights are multiples of: the VAE's scale times the UNet's."""
        return int(self.latent_scale * 2 ** (len(self.pipe.unet.config.block_out_channels) - 1))

    @property
    def native_size(self) -> int:
        """Pixels along one side of the square images that the checkpoint was made for."""
        size = self.pipe.unet.config.sample_size
        return int(size if isinstance(size, int) else 64) * self.latent_scale

    def check(self, sampling: Sampling) -> None:
        """Raise SegueError if the pipe, as it is now, cannot make a film with a solver; nothing is computed.

        Warns:
            Notice: the pipe's scheduler is not used, or not as it is.
        """
        _check_family(self.pipe)
        self._check_controlnets()
        Leg(self.schedule, self.point(0.5), CLEAN, sampling, self.pipe.scheduler)
        warn_of_solver(sampling, self.pipe.scheduler)

    def _check_controlnets(self) -> None:
        for network in self.controlnets:
            name = getattr(network, "name_or_path", "") or type(network).__name__
            check_fit(network, self.pipe, str(name), self.name)

    def frames_at_once(self, size: tuple[int, int]) -> int:
        """How many frames of (width, height) pixels one network call should denoise, for the memory that is free.

        A power of two, so that a little more or less free memory does not cut the work into other batches; on a CPU
        a million pixels (16 frames at most), on an accelerator four times that: more does not make networks faster.
        """
        device, pixels = self._device, size[0] * size[1]
        width = self.pipe.unet.config.block_out_channels[0] / WIDTH
        needed = 2 * pixels * BYTES_PER_PIXEL * width * self.pipe.unet.dtype.itemsize / 4
        times = 1 if device.type == "cpu" else 4
        most = min(free_memory(device) * FREE_SHARE / needed, times * 2**20 / pixels, times * 16)
        return int(2 ** int(math.log2(max(most, 1))))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to clean latents (B, C, h, w): the mean of the posterior, scaled.

        Images of more than ``TILED_PIXELS`` are encoded in tiles, which diffusers blends into each other.
        """
        vae = self.pipe.vae
        with self.evaluating(), _tiled(vae, images.shape[-2] * images.shape[-1]):
            encoded = vae.encode(images.to(self._device, self._vae_dtype))
            mean = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
            z = (mean.float() - _shift(vae)) * vae.config.scaling_factor
        return _home(z)

    def decode(self, z: Tensor, *, screened: bool = True) -> Tensor:
        """Clean latents (B, C, h, w) to images (B, 3, H, W) in [-1, 1], through the pipe's safety checker if any.

        ``screened=False`` passes the safety checker by, for what is not shown but computed with.

        Images of more than ``TILED_PIXELS`` are decoded in tiles, which diffusers blends into each other.

        Warns:
            Notice: the safety checker has blacked out images.
        """
        vae = self.pipe.vae
        with self.evaluating(), _tiled(vae, z.shape[-2] * z.shape[-1] * self.latent_scale**2):
            device = self._device
            scaled = z / vae.config.scaling_factor + _shift(vae)
            images = vae.decode(scaled.to(device, self._vae_dtype), return_dict=False)[0]
            if screened and getattr(self.pipe, "safety_checker", None) is not None:
                images, flagged = self.pipe.run_safety_checker(images, device, self.pipe.unet.dtype)
                images = torch.where(torch.tensor(flagged, device=device)[:, None, None, None], -1.0, images)
                if any(flagged):
                    text = f"the pipe's safety checker has blacked out {sum(flagged)} of {len(flagged)} images"
                    warn(f"{text}; try another seed or prompt")
        return _home(images).clamp(-1, 1)

    def embed(self, prompts: Sequence[str], negative_prompts: Sequence[str]) -> TextConditioning:
        """Prompts and as many negative prompts to a batch of embeddings, as the pipe encodes them.

        A text that is longer than the encoder's window is cut between words, with a Notice that shows
        what is lost.
        """
        if len(prompts) != len(negative_prompts):
            raise ValueError(f"{len(prompts)} prompts and {len(negative_prompts)} negative prompts")
        with self.evaluating():
            texts, negatives = ([self._cut(text) for text in given] for given in (prompts, negative_prompts))
            prompt, negative = self.pipe.encode_prompt(texts, self._device, 1, True, negatives)
        return TextConditioning(_home(prompt), _home(negative))

    def _cut(self, text: str) -> str:
        """A prompt as far as the encoder's window takes it; a learnt token of several vectors counts as so many."""
        tokenizer = self.pipe.tokenizer
        return cut(tokenizer, text, lambda part: self.pipe.maybe_convert_prompt(part, tokenizer))[0]

    def point(self, f: float) -> NoisePoint:
        """The noise point of a noise level 0 < f < 1: t = round(f T), whatever the solver and its steps."""
        return self.schedule.point(f)

    def noise_point(self, t: int) -> NoisePoint:
        """The noise point of a timestep 0 <= t < T of the training schedule."""
        return self.schedule.noise_point(t)

    def steps(self, start: NoisePoint, stop: NoisePoint, sampling: Sampling) -> int:
        """Network calls of a leg from start to stop."""
        if start == stop:
            return 0
        if sampling.solver == "pipe":  # whose scheduler may make more steps than it has points
            return len(Leg(self.schedule, start, stop, sampling, self.pipe.scheduler))
        return len(grid(start, stop, sampling.num_inference_steps, self.schedule.num_train_timesteps)) - 1

    def denoise(
        self,
        z: Tensor,
        conditioning: TextConditioning,
        start: NoisePoint,
        stop: NoisePoint = CLEAN,
        *,
        sampling: Sampling,
        noise: Callable[[int], Tensor] | None = None,
        progress: Callable[[], None] | None = None,
    ) -> Tensor:
        """Denoise latents from one noise point to another.

        Args:
            z: latents at start, (B, C, h, w).
            conditioning: of B samples. ControlNets act on the steps i of n that lie in the leg's share from
                ``sampling.control_start`` (i / n) to ``sampling.control_end`` ((i + 1) / n), the negative branch too.
            start: the noise point of z.
            stop: the noise point to reach, cleaner than start.
            sampling: solver, steps and guidance; at a guidance scale of 1 or less there is no negative branch, nor in
                steps outside of the share of the leg from ``guidance_start`` to ``guidance_end`` (counted as above).
            noise: the noise of a step by its number, (B, C, h, w), for eta and for pipes' schedulers that draw noise.
            progress: called after each step.

        Returns:
            (B, C, h, w) float32 on the CPU.

        Raises:
            SegueError: the solver is unknown or cannot start at a noise point; the network's numbers overflow.
        """
        if start == stop:
            return z
        leg = Leg(self.schedule, start, stop, sampling, self.pipe.scheduler)
        with self.evaluating():
            guided = self._inputs(conditioning, len(z), sampling.guidance_scale)
            plain = guided.plain()
            x = leg.enter(z.to(self._device, torch.float32))
            for i, t in enumerate(leg.timesteps):
                acts = partial(_acts, i, len(leg))
                inputs = guided if acts(sampling.guidance_start, sampling.guidance_end) else plain
                controlled = acts(sampling.control_start, sampling.control_end)
                output = self._predict(leg.network_input(x), [t], inputs, controlled)
                x = leg.step(output, x, noise(i) if noise and leg.is_random else None)
                if progress:
                    progress()
            z = _home(leg.leave(x))
        if not torch.isfinite(z).all():
            dtype = self.pipe.unet.dtype
            remedy = "its weights are damaged" if dtype == torch.float32 else "load it with dtype float32 (or bfloat16)"
            raise SegueError(f"{self.name} overflows in {str(dtype).removeprefix('torch.')}; {remedy}")
        return z

    def predict(self, z: Tensor, point: Points, conditioning: TextConditioning, guidance_scale: float = 1.0) -> Tensor:
        """eps_hat of latents, differentiable with respect to the conditioning's tensors (and z).

        Args:
            z: latents, (B, C, h, w).
            point: the noise point of all latents, or one for each.
            conditioning: of B samples.
            guidance_scale: at 1 or less the negative embeddings take no part.

        Returns:
            (B, C, h, w) with z's dtype and device; gradients are recorded if they are enabled. Before many calls on a
            pipe that offloads its networks, enter ``evaluating(grad=True)`` once.
        """
        points = [point] if isinstance(point, NoisePoint) else list(point)
        with self._frozen(grad=torch.is_grad_enabled()):
            inputs = self._inputs(conditioning, len(z), guidance_scale)
            x = z.to(self._device)
            output = self._predict(x, [p.timestep for p in points], inputs, True).to(z)
        alpha, sigma = per_sample([p.alpha for p in points], z), per_sample([p.sigma for p in points], z)
        return self.schedule.epsilon(output, z, alpha, sigma)

    def features(self, images: Tensor) -> list[Tensor]:
        """What the UNet sees in images (B, 3, H, W) in [-1, 1]: its second and third decoder blocks at little noise.

        Means over a few draws of noise, without words; float32 on the CPU, (B, C, h, w) each. Tang et al., "Emergent
        Correspondence from Image Diffusion", 2023, arXiv 2306.03881.
        """
        point, kept = self.point(FEATURE_NOISE), dict[int, Tensor]()
        blocks = list(self.pipe.unet.up_blocks)[1:3]
        hooks = [
            block.register_forward_hook(lambda _block, _given, output, i=i: kept.__setitem__(i, output))
            for i, block in enumerate(blocks)
        ]
        try:
            with self.evaluating():
                z, words = self.encode(images), self.embed([""], [""])
                draws = [Noise(0)("features", FrameKey(0), step=i, shape=z.shape[1:]) for i in range(FEATURE_DRAWS)]
                samples = [point.alpha * one + point.sigma * eps for one in z for eps in draws]
                seen: list[list[Tensor]] = [[] for _ in blocks]
                at_once = max(1, min(self.frames_at_once((images.shape[3], images.shape[2])), FEATURE_DRAWS))
                for first in range(0, len(samples), at_once):
                    x = torch.stack(samples[first : first + at_once]).to(self._device)
                    inputs = self._inputs(type(words).stack([words] * len(x)), len(x), 1.0)
                    self._predict(x, [point.timestep], inputs, False)
                    for i, outputs in enumerate(seen):
                        outputs.append(_home(kept[i]))
        finally:
            for hook in hooks:
                hook.remove()
        drawn = [torch.cat(outputs) for outputs in seen]  # (B draws, C, h, w)
        return [each.reshape(len(images), FEATURE_DRAWS, *each.shape[1:]).mean(1) for each in drawn]

    @contextmanager
    def evaluating(self, grad: bool = False) -> Iterator[None]:
        """Networks in evaluation mode with frozen weights, without gradients unless grad; then all as it was.

        A pipe that offloads its networks gets them back at the outermost end.
        """
        outermost = self._depth == 0
        try:
            with self._frozen(grad):
                yield
        finally:
            if outermost:
                self.pipe.maybe_free_model_hooks()

    @contextmanager
    def swapped(self, attention: Any = None, weights: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Other attention processors or weights in the UNet, then its own again.

        Args:
            attention: one processor for all layers, or one by the name of each (``pipe.unet.attn_processors``).
            weights: values by the name of a parameter, of adapters too, in place of its own.
        """
        unet = self.pipe.unet
        processors = dict(unet.attn_processors)
        kept = {name: unet.get_parameter(name).data for name in weights or {}}
        try:
            for name, value in (weights or {}).items():
                unet.get_parameter(name).data = value.to(kept[name]).reshape(kept[name].shape)
            if attention is not None:
                unet.set_attn_processor(dict(attention) if isinstance(attention, Mapping) else attention)
            yield
        finally:
            if attention is not None:
                unet.set_attn_processor(processors)
            for name, value in kept.items():
                unet.get_parameter(name).data = value

    def fingerprint(self) -> str:
        """A digest of the weights, adapters and scheduler."""
        return digest_of(self.parts())

    def parts(self) -> Mapping[str, str]:
        """What the fingerprint is a digest of, by name: networks, adapters, the VAE's scaling, the scheduler."""
        parts: Mapping[str, str] = self._fact("parts", lambda: parts_of(self.pipe, self.controlnets))
        return parts

    def _inputs(self, conditioning: TextConditioning, batch: int, guidance_scale: float) -> "_Inputs":
        """The conditioning of one batch on the device, the negative branch first, if there is one."""
        if len(conditioning) != batch:
            raise ValueError(f"{batch} latents and the conditioning of {len(conditioning)}")
        networks = self.controlnets
        if conditioning.controls and len(conditioning.controls) != len(networks):
            raise ValueError(f"{len(conditioning.controls)} controls for {len(networks)} ControlNets")
        # Equal branches cancel, eps + g (eps - eps) = eps, and one is enough; but inversion moves them apart.
        are_equal = not torch.is_grad_enabled() and torch.equal(conditioning.prompt, conditioning.negative)
        guided = guidance_scale > 1 and not are_equal
        device, dtype = self._device, self.pipe.unet.dtype
        text = torch.cat([conditioning.negative, conditioning.prompt]) if guided else conditioning.prompt
        controls: list[tuple[Any, Tensor, Tensor]] = []
        for network, control in zip(networks, conditioning.controls, strict=False):
            if control.scale.any():
                image, scale = (torch.cat([part] * (1 + guided)).to(device) for part in (control.image, control.scale))
                precision: Any = network.dtype
                controls.append((network, image.to(precision), scale))
        return _Inputs(text.to(device, dtype), controls, guidance_scale if guided else None)

    def _predict(self, z: Tensor, times: Sequence[float], inputs: "_Inputs", controlled: bool) -> Tensor:
        """The network's output with guidance, in z's dtype and on the device; one time for all samples or one each."""
        unet = self.pipe.unet
        branches = 1 if inputs.guidance_scale is None else 2
        x: Tensor = torch.cat([z.to(inputs.text.dtype)] * branches)
        t = torch.tensor(times, dtype=torch.float32, device=x.device).expand(len(z)).repeat(branches)
        down, middle = residuals(x, t, inputs.text, inputs.controls) if controlled else (None, None)
        output: Tensor = unet(
            x,
            t,
            encoder_hidden_states=inputs.text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0].to(z.dtype)
        if inputs.guidance_scale is None:
            return output
        negative, positive = output.chunk(2)
        return negative + inputs.guidance_scale * (positive - negative)

    @contextmanager
    def _frozen(self, grad: bool) -> Iterator[None]:
        """Evaluation mode, weights that need no gradient, and the gradient mode; then all as it was."""
        with self._alone:
            parts = [] if self._depth else [*self.pipe.components.values(), *self._own_controlnets]
            networks = [part for part in parts if isinstance(part, nn.Module)]
            modules = [module for network in networks for module in network.modules()]
            training = [module for module in modules if module.training]
            tracked = [
                (m, name) for m in modules for name, w in m._parameters.items() if w is not None and w.requires_grad
            ]
            self._depth += 1
            try:
                for module in training:
                    module.training = False
                _track(tracked, False)
                with torch.set_grad_enabled(grad):
                    yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._facts.clear()
                for module in training:
                    module.training = True
                _track(tracked, True)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """The conditioning on the device; B is doubled by guidance."""

    text: Tensor  # (B, L, D)
    controls: list[tuple[Any, Tensor, Tensor]]  # ControlNet, images (B, 3, H, W), scales (B,)
    guidance_scale: float | None  # None without a negative branch

    def plain(self) -> "_Inputs":
        """The same without the negative branch, which comes first."""
        if self.guidance_scale is None:
            return self
        controls = [(network, image.chunk(2)[1], scale.chunk(2)[1]) for network, image, scale in self.controls]
        return _Inputs(self.text.chunk(2)[1], controls, None)


def _acts(step: int, steps: int, start: float, end: float) -> bool:
    """Whether a step lies in a share of the leg."""
    return start <= step / steps and (step + 1) / steps <= end


@contextmanager
def _tiled(vae: Any, pixels: int) -> Iterator[None]:
    """The autoencoder works in tiles on images of many pixels; then it is as it was."""
    before = getattr(vae, "use_tiling", True)
    if before or pixels <= TILED_PIXELS:
        yield
        return
    vae.use_tiling = True
    try:
        yield
    finally:
        vae.use_tiling = before


def _track(weights: Sequence[tuple[nn.Module, str]], on: bool) -> None:
    """Have gradients of weights recorded, or not; by name, because offloading replaces them."""
    for module, name in weights:
        if (weight := module._parameters[name]) is not None:
            weight.requires_grad_(on)


def _check_family(pipe: Any) -> None:
    """Raise SegueError unless the pipe holds a Stable Diffusion 1.x or 2.x checkpoint."""
    kind = type(pipe).__name__
    family = (
        StableDiffusionPipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionControlNetPipeline,
        StableDiffusionControlNetImg2ImgPipeline,
    )
    if not isinstance(pipe, family):
        raise SegueError(f"{kind} is not of the Stable Diffusion 1.x or 2.x family, the only one supported")
    missing = [part for part in ("vae", "unet", "text_encoder", "tokenizer") if getattr(pipe, part, None) is None]
    if missing:
        raise SegueError(f"the {kind} lacks its {' and '.join(missing)}")
    tokens, positions = pipe.tokenizer.model_max_length, pipe.text_encoder.config.max_position_embeddings
    if tokens > positions:
        raise SegueError(f"the {kind}'s tokenizer takes texts of {tokens:g} tokens, its text encoder of {positions}")
    words, vectors = len(pipe.tokenizer), pipe.text_encoder.get_input_embeddings().num_embeddings
    if words > vectors:
        raise SegueError(f"the {kind}'s tokenizer knows {words} tokens, its text encoder {vectors}")
    config = pipe.unet.config
    if config.in_channels != config.out_channels or config.in_channels != pipe.vae.config.latent_channels:
        channels = f"{config.in_channels} channels in and {config.out_channels} out"
        raise SegueError(f"the {kind}'s UNet has {channels}: a checkpoint for inpainting or another task")
    if more := [name for name in BEYOND_TEXT if config.get(name) is not None]:
        raise SegueError(f"the {kind}'s UNet needs more than text ({more[0]}), which is all that it is given")


def _several(controlnet: Any) -> list[nn.Module]:
    """No ControlNet, one, several, or diffusers' module of several, as a list."""
    if controlnet is None:
        return []
    if isinstance(controlnet, list | tuple):
        return list(controlnet)
    return list(getattr(controlnet, "nets", [controlnet]))


def _shift(vae: Any) -> float:
    """The VAE's shift of its latents, 0 for most."""
    return float(getattr(vae.config, "shift_factor", None) or 0.0)


def _home(x: Tensor) -> Tensor:
    """Back from the networks: float32 on the CPU."""
    return x.to("cpu", torch.float32)
