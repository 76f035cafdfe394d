"""What the families with a UNet share: any pipe of diffusers that holds one of their checkpoints.

    z_0 = (mean of the VAE's posterior - shift) scale                   encode
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
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from segue.errors import SegueError, warn
from segue.machine import free_memory
from segue.method.conditioning import Conditioning
from segue.method.diffusion import CLEAN, NoisePoint, Points, per_sample
from segue.method.noise import Noise
from segue.method.tree import FrameKey
from segue.models.backbone import Sampling
from segue.models.controlnets import check_fit, residuals
from segue.models.fingerprint import digest_of, parts_of
from segue.models.solvers import Leg, Schedule
from segue.models.text import cut

__all__ = ["TILED_PIXELS", "UNetBackbone"]

# What denoising takes beside the weights, measured at Stable Diffusion 2.1's shape in float32: bytes for each pixel of
# the image, in each branch of guidance, in a UNet whose first layers are that wide.
BYTES_PER_PIXEL, WIDTH = 1600, 320
FREE_SHARE = 0.7  # of the free memory, which others use too
FEATURE_NOISE, FEATURE_DRAWS = 0.15, 2
ENCODERS = ("text encoder", "second text encoder")
FEW_STEP = ("LCMScheduler", "TCDScheduler")  # the schedulers of checkpoints that are made for 1 to 8 steps
TILED_PIXELS = 1024 * 1024  # above this, decoding one image in float32 takes more than 3 GB


class UNetBackbone:
    """A checkpoint with a UNet as a backbone; a family says what is its own.

    Args:
        pipe: a loaded pipe of diffusers, for text to image or image to image, with or without ControlNet.
        controlnet: one ControlNet or several, beside those of the pipe (which it then replaces here); they are moved
            to the device on which the pipe runs.
        clip_skip: how many of the text encoders' last layers are left out.

    Raises:
        SegueError: the pipe is of another family, or a ControlNet is for another model.

    One thread computes at a time: a second one that makes a film waits for the first.
    """

    ENCODERS: ClassVar[Mapping[str, str]]  # text encoders, each with its tokenizer
    ADDITION: ClassVar[str | None] = None  # what the UNet takes beside text, as its configuration names it
    FEATURES: ClassVar[slice] = slice(1, 3)  # the decoder blocks whose activations show what is where
    UPCASTS: ClassVar[bool] = False  # whether a VAE that asks for it works in float32

    def __init__(self, pipe: Any, controlnet: Any = None, clip_skip: int = 0) -> None:
        self.pipe = pipe
        self.clip_skip = clip_skip
        self._check_pipe()
        self._own_controlnets = _as_list(controlnet)
        self._schedule = (pipe.scheduler.config, Schedule.of(pipe.scheduler))
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
    def schedule(self) -> Schedule:
        """The training schedule, by the scheduler that the pipe has now."""
        config = self.pipe.scheduler.config
        if config is not self._schedule[0]:
            self._schedule = (config, Schedule.of(self.pipe.scheduler))
        return self._schedule[1]

    @property
    def controlnets(self) -> list[nn.Module]:
        """The ControlNets, in the order of a conditioning's controls."""
        return self._own_controlnets or _as_list(getattr(self.pipe, "controlnet", None))

    @property
    def network(self) -> nn.Module:
        """The network that denoises."""
        unet: nn.Module = self.pipe.unet
        return unet

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
            Notice: the pipe's scheduler is one of few-step checkpoints, and another solver is used.
        """
        self._check_pipe()
        self._check_controlnets()
        own = type(self.pipe.scheduler).__name__
        if own in FEW_STEP and sampling.solver != "pipe":
            text = f"the pipe's {own} is replaced by the solver {sampling.solver}"
            warn(f"{text}; checkpoints made for few steps look wrong with it; solver pipe keeps the pipe's own")
        self.leg(self.point(0.5), CLEAN, sampling)

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
        vae, dtype = self.pipe.vae, self._vae_dtype
        with self.evaluating(), _preparing(vae, dtype, images.shape[-2] * images.shape[-1]):
            encoded = vae.encode(images.to(self._device, dtype))
            mean = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
            shift, scale = _normalisation(vae)
            z = (mean.float().cpu() - shift) * scale
        return _bring_home(z)

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
            shift, scale = _normalisation(vae)
            images = vae.decode((z / scale + shift).to(device, dtype), return_dict=False)[0]
            if screened and getattr(self.pipe, "safety_checker", None) is not None:
                images, flagged = self.pipe.run_safety_checker(images, device, self.pipe.unet.dtype)
                images = torch.where(torch.tensor(flagged, device=device)[:, None, None, None], -1.0, images)
                if any(flagged):
                    text = f"the pipe's safety checker has blacked out {sum(flagged)} of {len(flagged)} images"
                    warn(f"{text}; try another seed or prompt")
        return _bring_home(images).clamp(-1, 1)

    def embed(
        self, prompts: Sequence[str], negative_prompts: Sequence[str], images: Sequence[Image.Image] = ()
    ) -> Conditioning:
        """Prompts, as many negative prompts and as many images as prompts, or none, to a batch of conditioning.

        A text that is longer than the encoder's window is cut between words, with a Notice that shows
        what is lost. Without images, an IP-Adapter is given what stands for none.
        """
        if len(prompts) != len(negative_prompts):
            raise ValueError(f"{len(prompts)} prompts and {len(negative_prompts)} negative prompts")
        with self.evaluating():
            texts, negatives = ([self._cut(text) for text in given] for given in (prompts, negative_prompts))
            positive, negative = self._embed_texts(texts, negatives)
            if self.takes_images:
                blank = Image.new("RGB", (64, 64))
                pairs = [self._embed_image(image) for image in images or [blank]]
                without = torch.cat([pair[0] for pair in pairs]).expand(len(texts), *[-1] * (pairs[0][0].ndim - 1))
                negative["image"] = without.clone()
                positive["image"] = torch.cat([pair[1] for pair in pairs]) if images else without.clone()
        return Conditioning(positive, negative)

    def _embed_texts(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Prompts and negative prompts as the pipe encodes them, by the names of a conditioning."""
        raise NotImplementedError

    @property
    def takes_images(self) -> bool:
        """Whether the pipe has an IP-Adapter, which takes images as prompts."""
        return getattr(self.pipe.unet, "encoder_hid_proj", None) is not None

    def _embed_image(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """What an IP-Adapter sees in no image and in one, (1, n, ...) each."""
        found = self.pipe.prepare_ip_adapter_image_embeds([image], None, self._device, 1, True)
        without, seen = _bring_home(found[0]).chunk(2)
        return without, seen

    def _cut(self, text: str) -> str:
        """A prompt as far as all encoders' windows take it; a learnt token of several vectors counts as so many."""
        for tokenizer in (getattr(self.pipe, name) for name in self.ENCODERS.values()):
            text = cut(tokenizer, text, partial(self.pipe.maybe_convert_prompt, tokenizer=tokenizer))
        return text

    def point(self, f: float) -> NoisePoint:
        """The noise point of a noise level 0 < f < 1: t = round(f T), whatever the solver and its steps."""
        return self.schedule.point(f)

    def leg(self, start: NoisePoint, stop: NoisePoint, sampling: Sampling) -> Leg:
        """The way from one noise point to a cleaner one; its length is the number of network calls."""
        return Leg(self.schedule, start, stop, sampling, self.pipe.scheduler)

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
        leg = self.leg(start, stop, sampling)
        with self.evaluating(), self.scaling_images(sampling.image_scale):
            guided = self._inputs(conditioning, z, sampling.guidance_scale)
            plain = guided.plain()
            x = leg.enter(z.to(self._device, torch.float32))
            for i, t in enumerate(leg.timesteps):
                acts = partial(_is_within, i, len(leg))
                inputs = guided if acts(sampling.guidance_start, sampling.guidance_end) else plain
                controlled = acts(sampling.control_start, sampling.control_end)
                output = self._predict(leg.network_input(x), [t], inputs, controlled)
                x = leg.step(output, x, noise(i) if noise and leg.is_random else None)
                if progress:
                    progress()
            z = _bring_home(leg.leave(x))
        if not torch.isfinite(z).all():
            dtype = self.pipe.unet.dtype
            remedy = "its weights are damaged" if dtype == torch.float32 else "load it with dtype float32 (or bfloat16)"
            raise SegueError(f"{self.name} overflows in {str(dtype).removeprefix('torch.')}; {remedy}")
        return z

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
        return self.schedule.epsilon(output, z, alpha, sigma)

    def features(self, images: Tensor) -> list[Tensor]:
        """What the UNet sees in images (B, 3, H, W) in [-1, 1]: two of its decoder blocks at little noise.

        Means over a few draws of noise, without words; float32 on the CPU, (B, C, h, w) each. Tang et al., "Emergent
        Correspondence from Image Diffusion", 2023, arXiv 2306.03881.
        """
        point, kept = self.point(FEATURE_NOISE), dict[int, Tensor]()
        blocks = list(self.pipe.unet.up_blocks)[self.FEATURES]
        hooks = [
            block.register_forward_hook(lambda _block, _given, output, i=i: kept.__setitem__(i, output))
            for i, block in enumerate(blocks)
        ]
        try:
            with self.evaluating(), self.scaling_images(0.0):
                z, words = self.encode(images), self.embed([""], [""])
                draws = [Noise(0)("features", FrameKey(0), step=i, shape=z.shape[1:]) for i in range(FEATURE_DRAWS)]
                samples = [point.alpha * one + point.sigma * eps for one in z for eps in draws]
                seen: list[list[Tensor]] = [[] for _ in blocks]
                at_once = max(1, min(self.frames_at_once((images.shape[3], images.shape[2])), FEATURE_DRAWS))
                for first in range(0, len(samples), at_once):
                    x = torch.stack(samples[first : first + at_once]).to(self._device)
                    inputs = self._inputs(words.take([0] * len(x)), x, 1.0)
                    self._predict(x, [point.timestep], inputs, False)
                    for i, outputs in enumerate(seen):
                        outputs.append(_bring_home(kept[i]))
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
            with self._freezing(grad):
                yield
        finally:
            if outermost:
                self.pipe.maybe_free_model_hooks()

    @contextmanager
    def scaling_images(self, scale: float | None) -> Iterator[None]:
        """An IP-Adapter acts that strongly, or as the pipe has it set if None; then as it did."""
        layers = [layer for layer in self.pipe.unet.attn_processors.values() if hasattr(layer, "to_k_ip")]
        before = [layer.scale for layer in layers]
        try:
            if scale is not None:
                for layer in layers:
                    layer.scale = [scale] * len(layer.scale)
            yield
        finally:
            for layer, own in zip(layers, before, strict=True):
                layer.scale = own

    @contextmanager
    def swapping(self, attention: Any = None, weights: Mapping[str, Tensor] | None = None) -> Iterator[None]:
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
        parts: Mapping[str, str] = self._fact("parts", lambda: parts_of(self.pipe, self._networks()))
        return parts

    def _networks(self) -> dict[str, Any]:
        """The networks that determine the images, by name."""
        names = {"UNet": "unet", "VAE": "vae", **dict(zip(ENCODERS, self.ENCODERS, strict=False))}
        if self.takes_images:
            names["image encoder"] = "image_encoder"
        networks = {name: getattr(self.pipe, part) for name, part in names.items()}
        return networks | {f"ControlNet {i}" if i else "ControlNet": one for i, one in enumerate(self.controlnets)}

    def _inputs(self, conditioning: Conditioning, z: Tensor, guidance_scale: float) -> "_Inputs":
        """The conditioning of latents (B, C, h, w) on the device, the negative branch first, if there is one."""
        if len(conditioning) != len(z):
            raise ValueError(f"{len(z)} latents and the conditioning of {len(conditioning)}")
        networks = self.controlnets
        if conditioning.controls and len(conditioning.controls) != len(networks):
            raise ValueError(f"{len(conditioning.controls)} controls for {len(networks)} ControlNets")
        # Equal branches cancel, eps + g (eps - eps) = eps, and one is enough; but inversion moves them apart.
        are_equal = not torch.is_grad_enabled() and conditioning.is_unguided()
        embeds_guidance = self.pipe.unet.config.time_cond_proj_dim  # of distilled checkpoints: no negative branch
        guided = guidance_scale > 1 and not are_equal and embeds_guidance is None
        device, dtype = self._device, self.pipe.unet.dtype
        branches = [conditioning.negative, conditioning.positive] if guided else [conditioning.positive]
        tensors = {
            name: torch.cat([branch[name] for branch in branches]).to(device, dtype) for name in conditioning.positive
        }
        added = self._added(tensors, z)
        if (image := tensors.get("image")) is not None:
            added["image_embeds"] = [image]
        guidance = None
        if embeds_guidance is not None:
            w = torch.full((len(z),), guidance_scale - 1.0)
            guidance = self.pipe.get_guidance_scale_embedding(w, embeds_guidance).to(device, dtype)
        controls: list[tuple[Any, Tensor, Tensor]] = []
        for network, control in zip(networks, conditioning.controls, strict=False):
            if control.scale.any():
                hint, scale = (torch.cat([part] * (1 + guided)).to(device) for part in (control.image, control.scale))
                precision: Any = network.dtype
                controls.append((network, hint.to(precision), scale))
        return _Inputs(tensors["text"], added, guidance, controls, guidance_scale if guided else None)

    def _added(self, tensors: Mapping[str, Tensor], z: Tensor) -> dict[str, Any]:  # noqa: ARG002
        """What the UNet takes beside text, given a conditioning's tensors on the device and the latents."""
        return {}

    def _predict(self, z: Tensor, times: Sequence[float], inputs: "_Inputs", controlled: bool) -> Tensor:
        """The network's output with guidance, in z's dtype and on the device; one time for all samples or one each."""
        unet = self.pipe.unet
        branches = 1 if inputs.guidance_scale is None else 2
        x: Tensor = torch.cat([z.to(inputs.text.dtype)] * branches)
        t = torch.tensor(times, dtype=torch.float32, device=x.device).expand(len(z)).repeat(branches)
        added = inputs.added or None
        down, middle = residuals(x, t, inputs.text, added, inputs.controls) if controlled else (None, None)
        output: Tensor = unet(
            x,
            t,
            encoder_hidden_states=inputs.text,
            timestep_cond=inputs.guidance,
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0].to(z.dtype)
        if inputs.guidance_scale is None:
            return output
        negative, positive = output.chunk(2)
        return negative + inputs.guidance_scale * (positive - negative)

    def _check_pipe(self) -> None:
        """Raise SegueError unless the pipe holds a whole checkpoint of the family for text to image."""
        pipe, kind = self.pipe, type(self.pipe).__name__
        parts = ("vae", "unet", *self.ENCODERS, *self.ENCODERS.values())
        if missing := [part for part in parts if getattr(pipe, part, None) is None]:
            raise SegueError(f"the {kind} lacks its {' and '.join(missing)}")
        for encoder, tokenizer in ((getattr(pipe, e), getattr(pipe, t)) for e, t in self.ENCODERS.items()):
            tokens, positions = tokenizer.model_max_length, encoder.config.max_position_embeddings
            if tokens > positions:
                raise SegueError(
                    f"the {kind}'s tokenizer takes texts of {tokens:g} tokens, its text encoder of {positions}"
                )
            words, vectors = len(tokenizer), encoder.get_input_embeddings().num_embeddings
            if words > vectors:
                raise SegueError(f"the {kind}'s tokenizer knows {words} tokens, its text encoder {vectors}")
        config = pipe.unet.config
        if config.in_channels != config.out_channels or config.in_channels != pipe.vae.config.latent_channels:
            channels = f"{config.in_channels} channels in and {config.out_channels} out"
            raise SegueError(f"the {kind}'s UNet has {channels}: a checkpoint for inpainting or another task")
        more = [name for name in ("class_embed_type", "num_class_embeds") if config.get(name) is not None]
        if config.addition_embed_type != self.ADDITION:
            more.append("addition_embed_type")
        if getattr(config, "encoder_hid_dim_type", None) not in (None, "ip_image_proj"):
            more.append("encoder_hid_dim_type")
        if more:
            raise SegueError(f"the {kind}'s UNet needs more than it can be given here ({more[0]})")
        adapters = getattr(getattr(pipe.unet, "encoder_hid_proj", None), "image_projection_layers", ())
        if len(adapters) > 1:
            raise SegueError(f"the {kind} has {len(adapters)} IP-Adapters; segue uses one")
        if any("FaceID" in type(projection).__name__ for projection in adapters):
            raise SegueError(f"the {kind} has an IP-Adapter of faces (FaceID), which takes no whole pictures")
        if len(adapters) and getattr(pipe, "image_encoder", None) is None:
            raise SegueError(f"the {kind} has an IP-Adapter without its image encoder")

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


@dataclass(frozen=True, eq=False)
class _Inputs:
    """The conditioning on the device; B is doubled by guidance."""

    text: Tensor  # (B, L, D)
    added: dict[str, Any]  # what the UNet takes beside text, by diffusers' names
    guidance: Tensor | None  # the embedded guidance scale of distilled checkpoints, (B, D)
    controls: list[tuple[Any, Tensor, Tensor]]  # ControlNet, images (B, 3, H, W), scales (B,)
    guidance_scale: float | None  # None without a negative branch

    def plain(self) -> "_Inputs":
        """The same without the negative branch, which comes first."""
        if self.guidance_scale is None:
            return self
        controls = [(network, image.chunk(2)[1], scale.chunk(2)[1]) for network, image, scale in self.controls]
        added = {name: _second_half(value) for name, value in self.added.items()}
        return _Inputs(self.text.chunk(2)[1], added, self.guidance, controls, None)


def _second_half(value: Any) -> Any:
    """The positive branch of a batch, or of each in a list."""
    return [one.chunk(2)[1] for one in value] if isinstance(value, list) else value.chunk(2)[1]


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


def _normalisation(vae: Any) -> tuple[Tensor, Tensor]:
    """The shift and the scale of a VAE's latents, each one number or one a channel: (1 or C, 1, 1)."""
    config = vae.config
    scale = torch.tensor([config.scaling_factor]).reshape(-1, 1, 1)
    if (mean := getattr(config, "latents_mean", None)) is not None and config.latents_std is not None:
        return torch.tensor(mean).reshape(-1, 1, 1), scale / torch.tensor(config.latents_std).reshape(-1, 1, 1)
    return torch.tensor([getattr(config, "shift_factor", None) or 0.0]).reshape(-1, 1, 1), scale


def _bring_home(x: Tensor) -> Tensor:
    """Back from the networks: float32 on the CPU."""
    return x.to("cpu", torch.float32)
