"""What all families share: any pipe of diffusers as a backbone.

    z_0 = (mean of the VAE's posterior - shift) scale                   encode
    eps_hat = eps(z; t, c_neg) + g (eps(z; t, c) - eps(z; t, c_neg))    guidance, both in one batch

The pipe stays the user's: LoRA, offloading, half precision, slicing and compiled networks are diffusers' business and
keep working, because the networks are called as the pipe calls them, and nothing of it is left changed.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from threading import RLock
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from segue.errors import SegueError, warn
from segue.machine import free_memory
from segue.method.conditioning import Conditioning
from segue.method.diffusion import CLEAN, NoisePoint, Points, per_sample
from segue.models.backbone import Parents, Sampling, inversion_of
from segue.models.controlnets import check_fit
from segue.models.families import family_of
from segue.models.fingerprint import active_adapters, digest_of, parts_of
from segue.models.lora import Lora

__all__ = ["TILED_PIXELS", "PipeBackbone", "bring_home", "cut"]

FREE_SHARE = 0.7  # of the free memory, which others use too
ENCODER_NAMES = ("text encoder", "second text encoder", "third text encoder")
TILED_PIXELS = 1024 * 1024  # above this, decoding one image in float32 takes more than 3 GB


class PipeBackbone:
    """A checkpoint as a backbone; a family says what is its own.

    Args:
        pipe: a loaded pipe of diffusers, for text to image or image to image, with or without ControlNet.
        controlnet: one ControlNet or several, beside those of the pipe (which it then replaces here); they are moved
            to the device on which the pipe runs.
        clip_skip: how many of the text encoders' last layers are left out.

    Raises:
        SegueError: the pipe is of another family, or a ControlNet is for another model.

    One thread computes at a time: a second one that makes a film waits for the first.
    """

    UPCASTS: ClassVar[bool] = False  # whether a VAE that asks for it works in float32

    def __init__(self, pipe: Any, controlnet: Any = None, clip_skip: int = 0) -> None:
        self.pipe = pipe
        self.clip_skip = clip_skip
        self.family = family_of(pipe)
        self._check_pipe()
        self._own_controlnets = _as_list(controlnet)
        self._check_controlnets()
        for network in self._own_controlnets:
            network.to(pipe._execution_device)
        self._alone = RLock()
        self._depth = 0  # of nested ``_freezing``
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
    def controlnets(self) -> list[nn.Module]:
        """The ControlNets, in the order of a conditioning's controls."""
        return self._own_controlnets or _as_list(getattr(self.pipe, "controlnet", None))

    @property
    def network(self) -> nn.Module:
        """The network that denoises."""
        network: nn.Module = getattr(self.pipe, self.family.network)
        return network

    @property
    def _network_dtype(self) -> torch.dtype:
        dtype: Any = self.network.dtype
        found: torch.dtype = dtype
        return found

    @property
    def _device(self) -> torch.device:
        """Where the networks compute."""
        found: torch.device = self._fact("device", lambda: self.pipe._execution_device)
        return found

    @property
    def _vae_dtype(self) -> torch.dtype:
        """The precision in which the VAE computes."""
        vae = self.pipe.vae
        found: torch.dtype = self._fact("vae dtype", lambda: vae.dtype)
        upcasts = self.UPCASTS and found == torch.float16 and vae.config.force_upcast
        return torch.float32 if upcasts else found

    def _fact(self, name: str, find: Callable[[], Any]) -> Any:
        """What diffusers looks for in all modules of a network, found once in each outermost ``_freezing``."""
        if not self._depth:
            return find()
        if name not in self._facts:
            self._facts[name] = find()
        return self._facts[name]

    @property
    def latent_scale(self) -> int:
        """Pixels of an image along one side of a latent's pixel."""
        return int(self.pipe.vae_scale_factor)

    @property
    def schedule(self) -> Any:
        """The training schedule: noise points, and what the network's output stands for."""
        raise NotImplementedError

    def frames_at_once(self, size: tuple[int, int]) -> int:
        """How many frames of (width, height) pixels one network call should denoise, for the memory that is free.

        A power of two, so that a little more or less free memory does not cut the work into other batches; on a CPU
        a million pixels (16 frames at most), on an accelerator four times that: more does not make networks faster.
        """
        device, pixels = self._device, size[0] * size[1]
        needed = 2 * pixels * self._bytes_per_pixel() * self._network_dtype.itemsize / 4
        times = 1 if device.type == "cpu" else 4
        most = min(free_memory(device) * FREE_SHARE / needed, times * 2**20 / pixels, times * 16)
        return int(2 ** int(math.log2(max(most, 1))))

    def _bytes_per_pixel(self) -> float:
        """What denoising takes beside the weights in float32, in each branch, for a pixel of the image."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to clean latents (B, C, h, w): the mean of the posterior, scaled.

        Images of more than ``TILED_PIXELS`` are encoded in tiles, which diffusers blends into each other.
        """
        vae, dtype = self.pipe.vae, self._vae_dtype
        with self.evaluating(), _preparing(vae, dtype, images.shape[-2] * images.shape[-1]):
            latents = self._to_latents(images.to(self._device, dtype))
        return self._normalise(bring_home(latents))

    def decode(self, z: Tensor, *, screened: bool = True) -> Tensor:
        """Clean latents (B, C, h, w) to images (B, 3, H, W) in [-1, 1], through the pipe's safety checker if any.

        ``screened=False`` passes the safety checker by, for what is not shown but computed with.

        Images of more than ``TILED_PIXELS`` are decoded in tiles, which diffusers blends into each other.

        Warns:
            Notice: the safety checker has blacked out images.
        """
        vae, dtype = self.pipe.vae, self._vae_dtype
        with self.evaluating(), _preparing(vae, dtype, z.shape[-2] * z.shape[-1] * self.latent_scale**2):
            device = self._device
            images = self._to_images(self._denormalise(z).to(device, dtype))
            if screened and getattr(self.pipe, "safety_checker", None) is not None:
                images, flagged = self.pipe.run_safety_checker(images, device, self.network.dtype)
                images = torch.where(torch.tensor(flagged, device=device)[:, None, None, None], -1.0, images)
                if any(flagged):
                    text = f"the pipe's safety checker has blacked out {sum(flagged)} of {len(flagged)} images"
                    warn(f"{text}; try another seed or prompt")
        return bring_home(images).clamp(-1, 1)

    def _to_latents(self, images: Tensor) -> Tensor:
        """The VAE's latents of images, in the VAE's precision: the mean of the posterior."""
        encoded = self.pipe.vae.encode(images)
        mean: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
        return mean

    def _to_images(self, latents: Tensor) -> Tensor:
        """The images of the VAE's latents."""
        images: Tensor = self.pipe.vae.decode(latents, return_dict=False)[0]
        return images

    def _normalise(self, mean: Tensor) -> Tensor:
        """The VAE's latents as the network has them."""
        shift, scale = normalisation(self.pipe.vae)
        return (mean - shift) * scale

    def _denormalise(self, z: Tensor) -> Tensor:
        """The network's latents as the VAE has them."""
        shift, scale = normalisation(self.pipe.vae)
        return z / scale + shift

    def point(self, f: float, shift: float = 1.0) -> NoisePoint:
        """The noise point of a noise level 0 < f < 1, with ``shift`` times its sigma / alpha, whatever the solver."""
        point: NoisePoint = self.schedule.point(f, shift)
        return point

    def leg(self, start: NoisePoint, stop: NoisePoint, sampling: Sampling) -> Any:
        """The way from one noise point to a cleaner one; its length is the number of network calls."""
        raise NotImplementedError

    def embed(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        images: Sequence[Image.Image] = (),  # noqa: ARG002
    ) -> Conditioning:
        """Prompts and as many negative prompts to a batch of conditioning."""
        if len(prompts) != len(negative_prompts):
            raise ValueError(f"{len(prompts)} prompts and {len(negative_prompts)} negative prompts")
        with self.evaluating():
            texts, negatives = ([self._cut(text) for text in given] for given in (prompts, negative_prompts))
            return Conditioning(*self._embed_texts(texts, negatives))

    def _cut(self, text: str) -> str:
        """A prompt as far as the encoders' windows take it."""
        return text

    @property
    def takes_negatives(self) -> bool:
        """Whether guidance has a negative branch."""
        return True

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Prompts and negative prompts as the pipe encodes them, by the names of a conditioning."""
        raise NotImplementedError

    def _leg(self, start: NoisePoint, stop: NoisePoint, sampling: Sampling, z: Tensor) -> Any:  # noqa: ARG002
        """A leg for latents (B, C, h, w), whose size the spacing may depend on, though not the number of calls."""
        return self.leg(start, stop, sampling)

    def denoise(
        self,
        z: Tensor,
        conditioning: Conditioning,
        start: NoisePoint,
        stop: NoisePoint = CLEAN,
        *,
        sampling: Sampling,
        noise: Callable[[int], Tensor] | None = None,
        progress: Callable[[], None] | None = None,
        parents: Parents | None = None,
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
            noise: the noise of a step by its number, (B, C, h, w), for eta, lcm, tcd and
                for pipes' schedulers that draw noise.
            progress: called after each step.
            parents: what the samples attend to in the first ``sampling.attention_share`` of the steps.

        Returns:
            (B, C, h, w) float32 on the CPU.

        Raises:
            SegueError: the solver is unknown or cannot start at a noise point; the network's numbers overflow.
        """
        if start == stop:
            return z
        leg = self._leg(start, stop, sampling, z)
        with self.evaluating(), self.scaling_images(sampling.image_scale):
            guided = self._inputs(conditioning, z, sampling.guidance_scale)
            plain = guided.plain()
            x = leg.enter(z.to(self._device, torch.float32))
            beside = parents and _Beside(self, parents, conditioning, self._leg(start, stop, sampling, z), sampling)
            for i, t in enumerate(leg.timesteps):
                acts = partial(_is_within, i, len(leg))
                is_guided = acts(sampling.guidance_start, sampling.guidance_end)
                controlled = acts(sampling.control_start, sampling.control_end)
                eps = noise(i) if noise and leg.is_random else None
                if beside and i < sampling.steps_beside(len(leg)):
                    output = beside.step(leg.network_input(x), is_guided, controlled, eps)
                else:
                    output = self._predict(leg.network_input(x), [t], guided if is_guided else plain, controlled)
                x = leg.step(output, x, eps)
                if progress:
                    progress()
            z = bring_home(leg.leave(x))
        if not torch.isfinite(z).all():
            dtype = self._network_dtype
            remedy = "its weights are damaged" if dtype == torch.float32 else "load it with dtype float32 (or bfloat16)"
            raise SegueError(f"{self.name} overflows in {str(dtype).removeprefix('torch.')}; {remedy}")
        return z

    def invert(
        self,
        z: Tensor,
        conditioning: Conditioning,
        stop: NoisePoint,
        *,
        sampling: Sampling,
        progress: Callable[[], None] | None = None,
    ) -> Tensor:
        """Clean latents to the noisy ones at a noise point that DDIM without guidance takes back, nearly.

        Over the points of the leg from ``stop`` to clean, backwards, from t to the noisier t' (Song et al. 2020, arXiv
        2010.02502); as usual the network is told t', since there is no time for clean:

            z_t' = (alpha_t' / alpha_t) (z_t - sigma_t eps_hat) + sigma_t' eps_hat,   eps_hat = eps_hat(z_t; t')

        Args:
            z: clean latents, (B, C, h, w).
            conditioning: of B samples; ControlNets act on all steps.
            stop: the noise point to reach.
            sampling: the number of steps over the whole schedule.
            progress: called after each step.

        Returns:
            (B, C, h, w) float32 on the CPU.
        """
        sampling = inversion_of(sampling)
        leg = self._leg(stop, CLEAN, sampling, z)
        with self.evaluating(), self.scaling_images(sampling.image_scale):
            inputs = self._inputs(conditioning, z, sampling.guidance_scale)
            x, now = z.to(self._device, torch.float32), CLEAN
            for after in reversed(self._points(leg)):
                output = self._predict(x, [after.timestep], inputs, True)
                alpha, sigma = per_sample([after.alpha], x), per_sample([after.sigma], x)
                eps_hat = self.schedule.epsilon(output, x, alpha, sigma)
                x = after.alpha / now.alpha * (x - now.sigma * eps_hat) + after.sigma * eps_hat
                now = after
                if progress:
                    progress()
            return bring_home(x)

    def _points(self, leg: Any) -> list[NoisePoint]:
        """The noise point of each network call of a leg."""
        return [self.schedule.noise_point(t) for t in leg.timesteps]

    def predict(self, z: Tensor, point: Points, conditioning: Conditioning, guidance_scale: float = 1.0) -> Tensor:
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
        with self._freezing(grad=torch.is_grad_enabled()):
            inputs = self._inputs(conditioning, z, guidance_scale)
            x = z.to(self._device)
            output = self._predict(x, [p.timestep for p in points], inputs, True).to(z)
        alpha, sigma = per_sample([p.alpha for p in points], z), per_sample([p.sigma for p in points], z)
        eps_hat: Tensor = self.schedule.epsilon(output, z, alpha, sigma)
        return eps_hat

    def attending(self, kind: str, weights: Sequence[float], steps: int) -> AbstractContextManager[None]:
        """The last samples of each batch attend to their parents (``Parents``), which come before them; then as it was.

        Args:
            kind: inner or outer (``segue.models.attention``).
            weights: of the right parent of each of these samples.
            steps: the number of denoising steps.
        """
        raise NotImplementedError

    def adapting(self, loras: Sequence[Lora]) -> AbstractContextManager[None]:
        """LoRAs act, in samples whose conditioning has weights of them; then all is as it was."""
        if loras:
            raise NotImplementedError
        return nullcontext()

    @property
    def takes_loras(self) -> bool:
        """Whether LoRAs can be fitted to keyframes."""
        return False

    def scaling_images(self, scale: float | None) -> AbstractContextManager[None]:  # noqa: ARG002
        """Image prompts act that strongly, or as the pipe has it set if None; then as they did."""
        return nullcontext()

    def _inputs(self, conditioning: Conditioning, z: Tensor, guidance_scale: float) -> Any:
        """The conditioning of latents (B, C, h, w) on the device, the negative branch first, if there is one."""
        raise NotImplementedError

    def _predict(self, z: Tensor, times: Sequence[float], inputs: Any, controlled: bool) -> Tensor:
        """The network's output with guidance, in z's dtype and on the device; one time for all samples or one each."""
        raise NotImplementedError

    def _check_pipe(self) -> None:
        """Raise SegueError unless the pipe holds a whole checkpoint of the family for text to image."""
        parts = (*self.family.networks, *self.family.encoders.values())
        if missing := [part for part in parts if getattr(self.pipe, part, None) is None]:
            raise SegueError(f"the {type(self.pipe).__name__} lacks its {' and '.join(missing)}")

    def _check_controlnets(self) -> None:
        """Raise SegueError if a ControlNet is for another model."""
        for network in self.controlnets:
            name = getattr(network, "name_or_path", "") or type(network).__name__
            check_fit(network, self.pipe, str(name), self.name)

    @contextmanager
    def evaluating(self, grad: bool = False) -> Iterator[None]:
        """Networks in evaluation mode with frozen weights, without gradients unless grad; then all as it was.

        A pipe that offloads its networks gets them back at the outermost end.
        """
        with self._alone:
            outermost = self._depth == 0
            try:
                with self._freezing(grad):
                    yield
            finally:
                if outermost:
                    self.pipe.maybe_free_model_hooks()

    def fingerprint(self) -> str:
        """A digest of the weights, adapters and scheduler."""
        return digest_of(self.parts())

    def parts(self) -> Mapping[str, str]:
        """What the fingerprint is a digest of, by name: networks, adapters, VAE's scaling, scheduler, clip skip."""
        parts: Mapping[str, str] = self._fact("parts", lambda: parts_of(self.pipe, self._networks()))
        return {**parts, "clip skip": str(self.clip_skip)} if self.clip_skip else parts

    def _networks(self) -> dict[str, Any]:
        """The networks that determine the images, by name."""
        network = "UNet" if self.family.network == "unet" else self.family.network
        encoders = zip(ENCODER_NAMES, self.family.encoders, strict=False)
        names = {network: self.family.network, "VAE": "vae", **dict(encoders)}
        if self.takes_images:
            names["image encoder"] = "image_encoder"
        networks = {name: getattr(self.pipe, part) for name, part in names.items()}
        return networks | {f"ControlNet {i}" if i else "ControlNet": one for i, one in enumerate(self.controlnets)}

    @property
    def takes_images(self) -> bool:
        """Whether images can be prompts."""
        return False

    @contextmanager
    def _freezing(self, grad: bool) -> Iterator[None]:
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


class _Beside:
    """The parents of a batch on a leg of their own, one step at a time before the batch's."""

    def __init__(
        self, backbone: PipeBackbone, parents: Parents, conditioning: Conditioning, leg: Any, sampling: Sampling
    ) -> None:
        """Begin a leg that nobody has begun; ``conditioning`` is the batch's."""
        self.backbone, self.leg = backbone, leg
        z, given = parents.z, Conditioning.stack([parents.conditioning, conditioning])
        self.guided = backbone._inputs(given, z.new_empty(len(given), *z.shape[1:]), sampling.guidance_scale)
        self.plain = self.guided.plain()
        self.attending = partial(backbone.attending, sampling.attention, parents.weights, len(leg))
        self.x = leg.enter(z.to(backbone._device, torch.float32))
        self.done = 0

    def step(self, batch: Tensor, is_guided: bool, controlled: bool, eps: Tensor | None) -> Tensor:
        """The network's output for the batch's input (B, C, h, w), while it attends to its parents."""
        leg, inputs = self.leg, self.guided if is_guided else self.plain
        both = torch.cat([leg.network_input(self.x), batch])
        with self.attending():
            output = self.backbone._predict(both, [leg.timesteps[self.done]], inputs, controlled)
        self.x = leg.step(output[: -len(batch)], self.x, None if eps is None else torch.cat([eps, eps]))
        self.done += 1
        return output[-len(batch) :]


def _is_within(step: int, steps: int, start: float, end: float) -> bool:
    """Whether a step lies in a share of the leg."""
    return start <= step / steps and (step + 1) / steps <= end


@contextmanager
def _preparing(vae: Any, dtype: torch.dtype, pixels: int) -> Iterator[None]:
    """The autoencoder works in a precision, and in tiles on images of many pixels; then it is as it was."""
    tiles, own = getattr(vae, "use_tiling", True), vae.dtype
    try:
        if not tiles and pixels > TILED_PIXELS:
            vae.use_tiling = True
        if own != dtype:
            vae.to(dtype)
        yield
    finally:
        if not tiles:
            vae.use_tiling = False
        if own != dtype:
            vae.to(own)


def _track(weights: Sequence[tuple[nn.Module, str]], on: bool) -> None:
    """Have gradients of weights recorded, or not; by name, because offloading replaces them."""
    for module, name in weights:
        if (weight := module._parameters[name]) is not None:
            weight.requires_grad_(on)


def _as_list(controlnet: Any) -> list[nn.Module]:
    """No ControlNet, one, several, or diffusers' module of several, as a list."""
    if controlnet is None:
        return []
    if isinstance(controlnet, list | tuple):
        return list(controlnet)
    return list(getattr(controlnet, "nets", [controlnet]))


def normalisation(vae: Any) -> tuple[Tensor, Tensor]:
    """The shift and the scale of a VAE's latents, each one number or one a channel: (1 or C, 1, 1)."""
    config = vae.config
    scale = torch.tensor([getattr(config, "scaling_factor", 1.0)]).reshape(-1, 1, 1)
    if (mean := getattr(config, "latents_mean", None)) is not None and config.latents_std is not None:
        return torch.tensor(mean).reshape(-1, 1, 1), scale / torch.tensor(config.latents_std).reshape(-1, 1, 1)
    return torch.tensor([getattr(config, "shift_factor", None) or 0.0]).reshape(-1, 1, 1), scale


def bring_home(x: Tensor) -> Tensor:
    """Back from the networks: float32 on the CPU."""
    return x.to("cpu", torch.float32)


def cut(
    tokenizer: Any, prompt: str, written: Callable[[str], str] = lambda text: text, window: int | None = None
) -> str:
    """A prompt as far as the encoder's window takes it.

    It is cut between words; within a word only where the first one is too long by itself.

    Args:
        tokenizer: the text encoder's tokenizer, of transformers; its ``model_max_length`` is the window in tokens.
        prompt: the prompt.
        written: how a text is written for the tokenizer, where it is not as it stands.
        window: the tokens that the pipe takes, if not the tokenizer's.

    Warns:
        Notice: something is lost; it shows what.
    """
    window = window or tokenizer.model_max_length

    def is_too_long(end: int) -> bool:
        return bool(len(tokenizer(written(prompt[:end]), truncation=False, verbose=False).input_ids) > window)

    if not is_too_long(len(prompt)):
        return prompt
    ends = [match.end() for match in re.finditer(r"\S+", prompt)]
    if is_too_long(ends[0]):
        ends = list(range(1, ends[0] + 1))
    fitting = bisect_right(ends, False, key=is_too_long)  # how many of the ends are not too long
    kept = prompt[: ends[fitting - 1]] if fitting else ""
    warn(f"a prompt is longer than the {window} tokens of the text encoder; cut off: {prompt[len(kept) :].strip()}")
    return kept
