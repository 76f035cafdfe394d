"""What the families with a UNet share: Stable Diffusion 1.x, 2.x, XL and their kin."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from segue.errors import SegueError
from segue.method.conditioning import Conditioning
from segue.method.diffusion import CLEAN, NoisePoint
from segue.method.noise import Noise
from segue.method.tree import FrameKey
from segue.models.attention import check_processors, interpolate_attention
from segue.models.backbone import Sampling
from segue.models.controlnets import residuals
from segue.models.fingerprint import learnt_tokens
from segue.models.lora import Adaptation, Lora
from segue.models.pipe import PipeBackbone, bring_home, cut
from segue.models.solvers import Leg, Schedule, warn_of_solver

__all__ = ["UNetBackbone"]

# What denoising takes beside the weights, measured at Stable Diffusion 2.1's shape in float32: bytes for each pixel of
# the image, in each branch of guidance, in a UNet whose first layers are that wide.
BYTES_PER_PIXEL, WIDTH = 1600, 320
FEATURE_NOISE, FEATURE_DRAWS = 0.15, 2


class UNetBackbone(PipeBackbone):
    """A checkpoint with a UNet as a backbone; a family says what is its own."""

    ADDITION: ClassVar[str | None] = None  # what the UNet takes beside text, as its configuration names it
    FEATURES: ClassVar[slice] = slice(1, 3)  # the decoder blocks whose activations show what is where
    _adaptation: Adaptation | None = None  # LoRAs that act
    _schedule: tuple[Any, Schedule] | None = None  # by the scheduler's configuration

    @property
    def schedule(self) -> Schedule:
        """The training schedule, by the scheduler that the pipe has now."""
        config = self.pipe.scheduler.config
        if self._schedule is None or config is not self._schedule[0]:
            self._schedule = (config, Schedule.of(self.pipe.scheduler))
        return self._schedule[1]

    def _bytes_per_pixel(self) -> float:
        return BYTES_PER_PIXEL * float(self.pipe.unet.config.block_out_channels[0]) / WIDTH

    @property
    def latent_channels(self) -> int:
        """C of a latent (B, C, h, w)."""
        return int(self.pipe.unet.config.in_channels)

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
        self._check_pipe()
        self._check_controlnets()
        self.leg(self.point(0.5), CLEAN, sampling)
        if sampling.attention != "none":
            check_processors(self.pipe.unet)
        warn_of_solver(sampling, self.pipe.scheduler)

    def embed(
        self, prompts: Sequence[str], negative_prompts: Sequence[str], images: Sequence[Image.Image] = ()
    ) -> Conditioning:
        """Prompts, as many negative prompts and as many images as prompts, or none, to a batch of conditioning.

        A text that is longer than the encoder's window is cut between words, with a Notice that shows
        what is lost. Without images, an IP-Adapter is given what stands for none.
        """
        with self.evaluating():
            words = super().embed(prompts, negative_prompts)
            if not self.takes_images:
                return words
            pairs = [self._embed_image(image) for image in images or [Image.new("RGB", (64, 64))]]
            without = torch.cat([pair[0] for pair in pairs]).expand(len(words), *[-1] * (pairs[0][0].ndim - 1))
            image = torch.cat([pair[1] for pair in pairs]) if images else without.clone()
        return Conditioning({**words.positive, "image": image}, {**words.negative, "image": without.clone()})

    @property
    def takes_negatives(self) -> bool:
        """Whether guidance has a negative branch, which checkpoints that are told the scale do without."""
        return self.pipe.unet.config.time_cond_proj_dim is None

    @property
    def takes_images(self) -> bool:
        """Whether the pipe has an IP-Adapter, which takes images as prompts."""
        return getattr(self.pipe.unet, "encoder_hid_proj", None) is not None

    def _embed_image(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """What an IP-Adapter sees in no image and in one, (1, n, ...) each."""
        found = self.pipe.prepare_ip_adapter_image_embeds([image], None, self._device, 1, True)
        without, seen = bring_home(found[0]).chunk(2)
        return without, seen

    def _cut(self, text: str) -> str:
        """A prompt as far as all encoders' windows take it; a learnt token of several vectors counts as so many."""
        for token in learnt_tokens(self.pipe):  # which diffusers finds as they are spelt only
            text = re.sub(re.escape(token), token.replace("\\", "\\\\"), text, flags=re.IGNORECASE)
        for tokenizer in (getattr(self.pipe, name) for name in self.family.encoders.values()):
            text = cut(tokenizer, text, partial(self.pipe.maybe_convert_prompt, tokenizer=tokenizer))
        return text

    def leg(self, start: NoisePoint, stop: NoisePoint, sampling: Sampling) -> Leg:
        """The way from one noise point to a cleaner one; its length is the number of network calls."""
        return Leg(self.schedule, start, stop, sampling, self.pipe.scheduler)

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
                        outputs.append(bring_home(kept[i]))
        finally:
            for hook in hooks:
                hook.remove()
        drawn = [torch.cat(outputs) for outputs in seen]  # (B draws, C, h, w)
        return [each.reshape(len(images), FEATURE_DRAWS, *each.shape[1:]).mean(1) for each in drawn]

    @property
    def takes_loras(self) -> bool:
        """Whether LoRAs can be fitted to keyframes."""
        return True

    @contextmanager
    def adapting(self, loras: Sequence[Lora]) -> Iterator[None]:
        """LoRAs act in the UNet, in samples whose conditioning has weights of them; then it is as it was."""
        if not loras:
            yield
            return
        self._adaptation = Adaptation(loras)
        try:
            with self._adaptation.acting(self.pipe.unet):
                yield
        finally:
            self._adaptation = None

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

    def attending(self, kind: str, weights: Sequence[float], steps: int) -> AbstractContextManager[None]:
        """The last samples of each batch attend to their parents, which come before them; then as it was."""
        return self.swapping(attention=interpolate_attention(self.pipe.unet, kind, weights, steps))

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
        used = guidance_scale if guided else None
        return _Inputs(tensors["text"], added, guidance, controls, used, tensors.get("lora"))

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
        if self._adaptation:
            self._adaptation.weights = inputs.lora
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

    def _check_pipe(self) -> None:
        """Raise SegueError unless the pipe holds a whole checkpoint of the family for text to image."""
        super()._check_pipe()
        pipe, kind = self.pipe, type(self.pipe).__name__
        for encoder, tokenizer in ((getattr(pipe, e), getattr(pipe, t)) for e, t in self.family.encoders.items()):
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
        if patch := _patch_of(pipe.unet):
            raise SegueError(f"the {kind}'s UNet is patched by {patch}: remove it before a film is made")
        Schedule.of(pipe.scheduler)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """The conditioning on the device; B is doubled by guidance."""

    text: Tensor  # (B, L, D)
    added: dict[str, Any]  # what the UNet takes beside text, by diffusers' names
    guidance: Tensor | None  # the embedded guidance scale of distilled checkpoints, (B, D)
    controls: list[tuple[Any, Tensor, Tensor]]  # ControlNet, images (B, 3, H, W), scales (B,)
    guidance_scale: float | None  # None without a negative branch
    lora: Tensor | None = None  # weights of LoRAs, (B, N)

    def plain(self) -> "_Inputs":
        """The same without the negative branch, which comes first."""
        if self.guidance_scale is None:
            return self
        controls = [(network, image.chunk(2)[1], scale.chunk(2)[1]) for network, image, scale in self.controls]
        added = {name: _second_half(value) for name, value in self.added.items()}
        lora = None if self.lora is None else self.lora.chunk(2)[1]
        return _Inputs(self.text.chunk(2)[1], added, self.guidance, controls, None, lora)


def _patch_of(unet: Any) -> str:
    """What has patched a UNet so that films with it could not be repeated or made; "" for nothing."""
    if hasattr(unet, "_tome_info"):
        return "token merging (ToMe), whose random numbers have no name"
    forward: Any = vars(unet).get("forward")
    if str(getattr(forward, "__module__", "")).startswith("DeepCache"):
        return "DeepCache, which takes one time for all images of a batch"
    return ""


def _second_half(value: Any) -> Any:
    """The positive branch of a batch, or of each in a list."""
    return [one.chunk(2)[1] for one in value] if isinstance(value, list) else value.chunk(2)[1]
