"""What a family of diffusion models offers to the method: latents, noise points, denoising.

Everything outside the networks is float32 on the CPU, and a batch only stacks samples that do not know each other.
"""

from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image
from torch import Tensor, nn

from segue.method.conditioning import Conditioning
from segue.method.diffusion import CLEAN, NoisePoint, Points
from segue.models.lora import Lora

__all__ = ["Backbone", "Parents", "Sampling", "inversion_of"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a leg is denoised."""

    solver: str = "dpm++"
    num_inference_steps: int  # over the whole schedule; a leg takes its share
    guidance_scale: float
    eta: float = 0.0
    guidance_start: float = 0.0  # the share of the leg at which guidance begins to act
    guidance_end: float = 1.0  # the share of the leg at which it ends
    control_start: float = 0.0  # the share of the leg at which ControlNets begin to act
    control_end: float = 1.0  # the share of the leg at which they end
    image_scale: float | None = None  # how strongly image prompts act; as the pipe has it if None
    attention: str = "none"  # how frames attend to their parents: none, inner or outer
    attention_share: float = 0.5  # the share of the leg in which they do

    def steps_beside(self, steps: int) -> int:
        """The first steps of a leg, in which parents are denoised beside their frames."""
        return 0 if self.attention == "none" else sum(i / steps <= self.attention_share for i in range(1, steps + 1))


@dataclass(frozen=True, eq=False)
class Parents:
    """The parents of B frames, which are denoised beside them so that the frames attend to them.

    Attributes:
        z: noisy latents at the frames' noise point, (2B, C, h, w): all left parents, then all right ones.
        conditioning: of these 2B samples.
        weights: of the right parent of each frame.
    """

    z: Tensor
    conditioning: Conditioning
    weights: Sequence[float]


def inversion_of(sampling: Sampling) -> Sampling:
    """How a leg is inverted: by DDIM, as many steps, without guidance."""
    return replace(sampling, solver="ddim", eta=0.0, guidance_scale=1.0)


class Backbone(Protocol):
    """A family of latent diffusion models, with one checkpoint loaded."""

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        ...

    @property
    def marks(self) -> Sequence[str]:
        """What else tells what the checkpoint was made for: its scheduler's class, its adapters' names."""
        ...

    @property
    def multiple_of(self) -> int:
        """Widths and heights of images are multiples of this."""
        ...

    @property
    def latent_channels(self) -> int:
        """C of a latent (B, C, h, w)."""
        ...

    @property
    def latent_scale(self) -> int:
        """Pixels of an image along one side of a latent's pixel."""
        ...

    @property
    def controlnets(self) -> Sequence[Any]:
        """The ControlNets, in the order of a conditioning's controls."""
        ...

    @property
    def native_size(self) -> int:
        """Pixels along one side of the square images that the checkpoint was made for."""
        ...

    def check(self, sampling: Sampling) -> None:
        """Raise SegueError if no film can be made with a solver; nothing is computed."""
        ...

    def frames_at_once(self, size: tuple[int, int]) -> int:
        """How many frames of (width, height) pixels one network call should denoise, for the memory that is free."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to clean latents (B, C, h, w): the mean of the posterior, scaled."""
        ...

    def decode(self, z: Tensor, *, screened: bool = True) -> Tensor:
        """Clean latents (B, C, h, w) to images (B, 3, H, W) in [-1, 1]; screened ones may be blacked out."""
        ...

    @property
    def network(self) -> nn.Module:
        """The network that denoises."""
        ...

    @property
    def takes_negatives(self) -> bool:
        """Whether guidance has a negative branch."""
        ...

    @property
    def takes_images(self) -> bool:
        """Whether images can be prompts."""
        ...

    def embed(
        self, prompts: Sequence[str], negative_prompts: Sequence[str], images: Sequence[Image.Image] = ()
    ) -> Conditioning:
        """Prompts to conditioning, one sample for each; with as many images as prompts too, or none."""
        ...

    def point(self, f: float, shift: float = 1.0) -> NoisePoint:
        """The noise point of a noise level 0 < f < 1, with ``shift`` times its sigma / alpha, whatever the solver."""
        ...

    def leg(self, start: NoisePoint, stop: NoisePoint, sampling: Sampling) -> Sized:
        """The way from one noise point to a cleaner one; its length is the number of network calls."""
        ...

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
        """Denoise latents (B, C, h, w) from one noise point to another; noise(step) is the fresh noise of a step."""
        ...

    def invert(
        self,
        z: Tensor,
        conditioning: Conditioning,
        stop: NoisePoint,
        *,
        sampling: Sampling,
        progress: Callable[[], None] | None = None,
    ) -> Tensor:
        """Clean latents (B, C, h, w) to the noisy ones at a noise point that DDIM without guidance takes back."""
        ...

    def predict(self, z: Tensor, point: Points, conditioning: Conditioning, guidance_scale: float = 1.0) -> Tensor:
        """eps_hat of latents at a noise point, differentiable with respect to the conditioning's tensors."""
        ...

    def features(self, images: Tensor) -> Sequence[Tensor]:
        """What the network sees in images (B, 3, H, W) in [-1, 1]: activations (B, C, h, w) of several layers."""
        ...

    def evaluating(self, grad: bool = False) -> AbstractContextManager[None]:
        """Networks in evaluation mode, weights frozen, without gradients unless grad; all as it was afterwards."""
        ...

    def scaling_images(self, scale: float | None) -> AbstractContextManager[None]:
        """Image prompts act that strongly, or as the pipe has it if None; as it was afterwards."""
        ...

    def adapting(self, loras: Sequence[Lora]) -> AbstractContextManager[None]:
        """LoRAs act, in samples whose conditioning has weights of them ("lora"); then all is as it was."""
        ...

    @property
    def takes_loras(self) -> bool:
        """Whether LoRAs can be fitted to keyframes."""
        ...

    def fingerprint(self) -> str:
        """A digest of the weights, adapters and scheduler."""
        ...

    def parts(self) -> Mapping[str, str]:
        """What the fingerprint is a digest of, by name."""
        ...
