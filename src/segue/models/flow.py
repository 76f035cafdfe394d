"""Flow matching, what SD 3, FLUX and their kin share (Lipman et al. 2022, arXiv 2210.02747; Liu et al., 2209.03003).

    z_sigma = (1 - sigma) z_0 + sigma eps      the noise point (1000 sigma, 1 - sigma, sigma)
    v = eps - z_0                              what the network predicts
    z_0 = z - sigma v,   eps_hat = z + (1 - sigma) v

A noise level f means as much noise as in Stable Diffusion: sigma / (1 - sigma) = sigma_f / alpha_f. A leg divides its
way evenly in u, where the family's shift s makes sigma = s u / (1 + (s - 1) u); from pure noise to clean these are the
sigmas of the family's own pipeline. Where that has its last step begin at a fixed sigma, the inner sigmas are stretched
to it from the leg's start. Its steps need alpha and sigma alone, with z_0 as the network sees it:

    z' = (sigma' / sigma) z + (alpha' - alpha sigma' / sigma) D
    D = z_0                                                      Euler, which is DDIM
    D = z_0 + (z_0 - z_0 before) / (2 r),  r = h before / h      2M, with h = log(alpha' sigma / (alpha sigma'))

2M is DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095); its first step and the one to clean are Euler's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from segue.errors import SegueError, warn
from segue.method.conditioning import Conditioning, stack_tensors
from segue.method.diffusion import CLEAN, NoisePoint
from segue.method.noise import Noise
from segue.method.tree import FrameKey
from segue.models.backbone import Sampling
from segue.models.pipe import PipeBackbone, bring_home, cut

__all__ = ["TIMES", "FlowBackbone", "FlowInputs", "FlowLeg", "FlowSchedule"]

TIMES = 1000  # the network's time at pure noise
BYTES_PER_PIXEL = 1600  # what denoising takes beside the weights in float32, for each pixel of the image
FEATURE_NOISE = 0.15
BETAS = (0.00085, 0.012)  # Stable Diffusion's schedule, whose noise levels are matched
SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
ORDERS: Mapping[str, int] = {"dpm++": 2, "ddim": 1, "euler": 1, "pipe": 1}


class FlowSchedule:
    """Noise points of flow matching."""

    def point(self, f: float, shift: float = 1.0) -> NoisePoint:
        """The noise point of a noise level 0 < f < 1, with ``shift`` times Stable Diffusion's sigma / alpha."""
        if not 0 < f < 1:
            raise SegueError(f"a noise level lies between 0 and 1, not at {f:g} (noise)")
        betas = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, 1000, dtype=torch.float64) ** 2
        alpha_squared = float((1 - betas).cumprod(0)[min(round(f * 1000), 999)])
        return self.noise_point(1 / (1 + math.sqrt(alpha_squared / (1 - alpha_squared)) / shift))

    def noise_point(self, sigma: float) -> NoisePoint:
        """The noise point of a sigma, 0 < sigma <= 1."""
        return NoisePoint(TIMES * sigma, 1 - sigma, sigma)

    def epsilon(self, output: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG002
        """The network's v on z as eps_hat = z + alpha v."""
        return z + alpha * output


class FlowLeg:
    """One denoising leg, used as ``segue.models.solvers.Leg`` is."""

    is_random = False

    def __init__(
        self, start: NoisePoint, stop: NoisePoint, steps: int, shift: float, order: int, terminal: float | None = None
    ) -> None:
        """Go from a noise point to a cleaner one in a number of steps, evenly in what the shift makes of sigma.

        The last step to clean begins at ``terminal``, to which the sigmas of the others are then stretched.
        """
        u, end = unshifted(start.sigma, shift), unshifted(stop.sigma, shift)
        inner = [shifted(u + (end - u) * i / steps, shift) for i in range(1, steps)]
        if terminal and inner and stop == CLEAN:
            ratio = (start.sigma - terminal) / (start.sigma - inner[-1])
            inner = [start.sigma - (start.sigma - sigma) * ratio for sigma in inner]
        self._sigmas = [start.sigma, *inner, stop.sigma]
        self._order, self._done = order, 0
        self._before: Tensor | None = None  # z_0 as the network saw it in the step before

    @property
    def timesteps(self) -> list[float]:
        """The timestep of each network call."""
        return [TIMES * sigma for sigma in self._sigmas[:-1]]

    def __len__(self) -> int:
        return len(self._sigmas) - 1

    def enter(self, z: Tensor) -> Tensor:
        """Latents at the leg's start."""
        return z

    network_input = leave = enter

    def step(self, output: Tensor, x: Tensor, noise: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Make the next step by the network's v, (B, C, h, w)."""
        i = self._done
        sigma, after = self._sigmas[i], self._sigmas[i + 1]
        clean = direction = x - sigma * output
        if self._order == 2 and self._before is not None and after > 0:
            h_before, h = (_log_ratio(a, b) for a, b in pairwise(self._sigmas[i - 1 : i + 2]))
            if math.isfinite(h_before):
                direction = clean + (clean - self._before) * (h / (2 * h_before))
        self._before, self._done = clean, i + 1
        ratio = after / sigma
        return ratio * x + ((1 - after) - (1 - sigma) * ratio) * direction


def shifted(u: float, shift: float) -> float:
    """Sigma at an even place 0 <= u <= 1 of the way from clean to noise."""
    return shift * u / (1 + (shift - 1) * u)


def unshifted(sigma: float, shift: float) -> float:
    """The place of a sigma."""
    return sigma / (shift - (shift - 1) * sigma)


def _log_ratio(sigma: float, after: float) -> float:
    """By how much log(alpha / sigma) grows from one sigma to a cleaner one."""
    if sigma == 1:
        return math.inf
    return math.log((1 - after) * sigma / ((1 - sigma) * after))


@dataclass(frozen=True, eq=False)
class FlowInputs:
    """The conditioning on the device; B is doubled by guidance."""

    tensors: Mapping[str, Tensor]  # by the names of a conditioning, (B, ...) each
    guidance_scale: float | None  # None without a negative branch
    embedded: float | None  # the guidance scale that the network is told
    controls: Sequence[tuple[Any, Tensor, Tensor]]  # ControlNet, latents of its images (B, C, h, w), scales (B,)

    def plain(self) -> "FlowInputs":
        """The same without the negative branch, which comes first."""
        if self.guidance_scale is None:
            return self
        halves = {name: tensor.chunk(2)[1] for name, tensor in self.tensors.items()}
        controls = [(network, hint.chunk(2)[1], scale.chunk(2)[1]) for network, hint, scale in self.controls]
        return replace(self, tensors=halves, guidance_scale=None, controls=controls)


class FlowBackbone(PipeBackbone):
    """A flow-matching checkpoint as a backbone; a family says what is its own."""

    WINDOW: ClassVar[int | None] = None  # tokens of a prompt that the last text encoder takes; None if it takes all
    PATCH: ClassVar[int] = 2  # latent pixels along one side of what the network takes as a token
    WORDS_FIRST: ClassVar[bool] = True  # where one sequence has both, whether the picture's tokens are its end

    @property
    def schedule(self) -> FlowSchedule:
        """Noise points, and what the network's output stands for."""
        return FlowSchedule()

    @property
    def latent_channels(self) -> int:
        """C of a latent (B, C, h, w)."""
        return int(self.pipe.vae.config.latent_channels)

    @property
    def multiple_of(self) -> int:
        """What widths and heights are multiples of."""
        return self.latent_scale * self.PATCH

    @property
    def native_size(self) -> int:
        """Pixels along one side of the square images that the checkpoint was made for."""
        return int(self.pipe.default_sample_size) * self.latent_scale

    def check(self, sampling: Sampling) -> None:
        """Raise SegueError if no film can be made with a solver; nothing is computed.

        Warns:
            Notice: steps are not spaced as the pipe's scheduler spaces them; something is without effect.
        """
        self._check_pipe()
        self._check_controlnets()
        self.leg(self.point(0.5), CLEAN, sampling)
        if sampling.attention != "none":
            raise SegueError(f"attention interpolation needs a UNet, which the {type(self.pipe).__name__} has not")
        own = self.pipe.scheduler
        if sampling.solver == "pipe" and type(own).__name__ != "FlowMatchEulerDiscreteScheduler":
            warn(f"the pipe's {type(own).__name__} is replaced by Euler's method")
        if spacings := [name for name in SPACINGS if own.config.get(name)]:
            warn(f"the pipe's {type(own).__name__} is used without {spacings[0]}; steps are spaced by its shift")

    def _cut(self, text: str) -> str:
        tokenizer = getattr(self.pipe, list(self.family.encoders.values())[-1])
        return text if self.WINDOW is None else cut(tokenizer, text, window=self.WINDOW)

    @property
    def takes_negatives(self) -> bool:
        """Whether guidance has a negative branch."""
        return not self._is_distilled()

    def _bytes_per_pixel(self) -> float:
        return BYTES_PER_PIXEL

    def leg(self, start: NoisePoint, stop: NoisePoint, sampling: Sampling) -> FlowLeg:
        """The way from one noise point to a cleaner one, spaced as at the native size."""
        tokens = (self.native_size // self.multiple_of) ** 2
        return self._spaced(start, stop, sampling, tokens)

    def _leg(self, start: NoisePoint, stop: NoisePoint, sampling: Sampling, z: Tensor) -> FlowLeg:
        return self._spaced(start, stop, sampling, z.shape[-2] * z.shape[-1] // self.PATCH**2)

    def _spaced(self, start: NoisePoint, stop: NoisePoint, sampling: Sampling, tokens: int) -> FlowLeg:
        """A leg whose number of steps follows from sigma alone, and their spacing from the picture's size too."""
        if (order := ORDERS.get(sampling.solver)) is None or sampling.eta:
            solver = f"{sampling.solver} with eta" if order else sampling.solver
            raise SegueError(f"{solver} is not a solver for {self.family.name}; choose dpm++ or euler")
        if start.sigma <= stop.sigma:
            raise ValueError(f"a leg goes from a noisier point to a cleaner one, not from {start} to {stop}")
        steps = max(1, math.ceil(sampling.num_inference_steps * (start.sigma - stop.sigma) - 1e-9))
        terminal, shift = (
            self.pipe.scheduler.config.get("shift_terminal"),
            self._shift(tokens, sampling.num_inference_steps),
        )
        return FlowLeg(start, stop, steps, shift, order, terminal)

    def _points(self, leg: FlowLeg) -> list[NoisePoint]:
        return [self.schedule.noise_point(t / TIMES) for t in leg.timesteps]

    def _shift(self, tokens: int, steps: int) -> float:  # noqa: ARG002
        """How far the family spaces its steps towards noise, by a picture's tokens and the steps of a whole way."""
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            own = getattr(self.pipe.scheduler, "shift", None)  # DPM-Solver's calls it flow_shift
            return float(own or config.get("flow_shift") or 1.0)
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        first, last = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return math.exp(first + (last - first) * (tokens - low) / (high - low))

    def _inputs(self, conditioning: Conditioning, z: Tensor, guidance_scale: float) -> FlowInputs:
        if len(conditioning) != len(z):
            raise ValueError(f"{len(z)} latents and the conditioning of {len(conditioning)}")
        are_equal = not torch.is_grad_enabled() and conditioning.is_unguided()
        embedded = guidance_scale if self._embeds_guidance() else None
        guided = guidance_scale > 1 and not are_equal and not self._is_distilled()
        branches = [conditioning.negative, conditioning.positive] if guided else [conditioning.positive]
        tensors = {
            name: tensor.to(self._device, torch.bool if name == "mask" else self._network_dtype)
            for name, tensor in stack_tensors(branches).items()
        }
        controls = []
        for network, control in zip(self.controlnets, conditioning.controls, strict=False):
            if control.scale.any():
                hint = self._hint(network, control.image)
                hint, scale = (torch.cat([part] * (1 + guided)).to(self._device) for part in (hint, control.scale))
                controls.append((network, hint.to(network.dtype), scale))  # type: ignore[arg-type]
        return FlowInputs(tensors, guidance_scale if guided else None, embedded, controls)

    def _hint(self, network: Any, image: Tensor) -> Tensor:  # noqa: ARG002
        """Control images (B, 3, H, W) in [0, 1] as a ControlNet takes them: latents (B, C, h, w)."""
        return self.encode(image * 2 - 1)

    def _residuals(self, x: Tensor, sigma: Tensor, inputs: FlowInputs) -> dict[str, list[Tensor]]:
        """What the ControlNets add to the blocks, summed, by the names of the network's arguments."""
        found: dict[str, list[Tensor]] = {}
        for network, hint, scale in inputs.controls:
            strength = scale.to(x.dtype)[:, None, None]
            for name, parts in self._control(network, x.to(hint.dtype), hint, sigma, inputs).items():
                scaled = [part.to(x.dtype) * strength for part in parts]
                before = found.get(name)
                found[name] = [a + b for a, b in zip(before, scaled, strict=True)] if before else scaled
        return found

    def _control(
        self, network: Any, x: Tensor, hint: Tensor, sigma: Tensor, inputs: FlowInputs
    ) -> Mapping[str, Sequence[Tensor]]:
        """What one ControlNet adds to the blocks, by the names of the network's arguments."""
        raise NotImplementedError

    def _embeds_guidance(self) -> bool:
        """Whether the network is told the guidance scale."""
        return False

    def _is_distilled(self) -> bool:
        """Whether the network was made to do without a negative branch."""
        return self._embeds_guidance()

    def _predict(self, z: Tensor, times: Sequence[float], inputs: FlowInputs, controlled: bool) -> Tensor:
        inputs = inputs if controlled else replace(inputs, controls=())
        branches = 1 if inputs.guidance_scale is None else 2
        x: Tensor = torch.cat([z.to(self._network_dtype)] * branches)
        sigma = torch.tensor(times, dtype=torch.float32, device=x.device).expand(len(z)).repeat(branches) / TIMES
        output = self._velocity(x, sigma, inputs).to(z.dtype)
        if inputs.guidance_scale is None:
            return output
        negative, positive = output.chunk(2)
        return self._guide(negative, positive, inputs.guidance_scale)

    def _guide(self, negative: Tensor, positive: Tensor, scale: float) -> Tensor:
        """Both branches' velocities as one."""
        return negative + scale * (positive - negative)

    def _velocity(self, x: Tensor, sigma: Tensor, inputs: FlowInputs) -> Tensor:
        """The network's v = eps - z_0.

        Args:
            x: noisy latents in the network's precision, (B, C, h, w).
            sigma: their sigmas, (B,) float32.
            inputs: the conditioning of B samples.

        Returns:
            (B, C, h, w).
        """
        raise NotImplementedError

    def features(self, images: Tensor) -> list[Tensor]:
        """What the network sees in images (B, 3, H, W) in [-1, 1]: its middle block at little noise.

        Without words; float32 on the CPU, (B, C, h, w), a pixel for each token.
        """
        blocks = [block for name in self._blocks() for block in getattr(self.network, name)]
        kept: list[Any] = []
        handle = blocks[len(blocks) // 2].register_forward_hook(lambda _block, _given, output: kept.append(output))
        try:
            with self.evaluating():
                z, words, point = self.encode(images), self.embed([""], [""]), self.point(FEATURE_NOISE)
                eps = Noise(0)("features", FrameKey(0), shape=z.shape[1:])
                for one in z:
                    x = (point.alpha * one + point.sigma * eps)[None].to(self._device)
                    self._predict(x, [point.timestep], self._inputs(words, x, 1.0), False)
        finally:
            handle.remove()
        height, width = (side // self.PATCH for side in z.shape[-2:])
        return [torch.cat([_as_picture(output, height, width, self.WORDS_FIRST) for output in kept])]

    def _blocks(self) -> Sequence[str]:
        """The names of the network's lists of blocks, in the order in which they compute."""
        return ("transformer_blocks",)


def _as_picture(output: Any, height: int, width: int, words_first: bool) -> Tensor:
    """A block's tokens of a picture, (1, C, h, w): the output that has one for each, or an end of the last one."""
    parts = output if isinstance(output, tuple) else (output,)
    found = [part for part in parts if part is not None and part.ndim == 3]
    exact = [part for part in found if part.shape[1] == height * width]
    ends = slice(-height * width, None) if words_first else slice(height * width)
    tokens = exact[-1] if exact else found[-1][:, ends]
    return bring_home(tokens.transpose(1, 2).reshape(1, -1, height, width))
