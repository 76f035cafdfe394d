"""One pair of pictures, made into a film by the paper's procedure and by the engine, at matching settings."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from benchmarks.speed.meter import Calls
from benchmarks.speed.transcription import Procedure, transcribed
from segue import Interpolator, models
from segue.models import loading
from segue.noise import Noise
from segue.pictures import fit, load
from segue.tensors import to_tensor
from segue.tree import FrameKey

__all__ = ["EXAMPLES", "Films", "counted", "distance", "plain_pipe"]

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMPTS = ("cat", "tiger")


@dataclass(frozen=True)
class Films:
    """The film of a cat and a tiger, by either way.

    Attributes:
        procedure: the settings that both share: frames, noise levels, guidance, candidates.
        size: pixels along a side.
        seed: of the noise.
    """

    procedure: Procedure
    size: int = 128
    seed: int = 0

    @property
    def pictures(self) -> tuple[Image.Image, Image.Image]:
        """The keyframes."""
        cat, tiger = (fit(load(EXAMPLES / f"{name}.png"), (self.size, self.size)) for name in ("cat", "tiger"))
        return cat, tiger

    def by_the_paper(self, pipe: Any) -> Tensor:
        """The frames between the keyframes by the transcription, (F, 3, H, W) in [-1, 1]."""
        shape = (int(pipe.unet.config.in_channels), self.size // 8, self.size // 8)
        last = self.procedure.num_frames - 1

        def noise(frame: int, candidate: int) -> Tensor:
            key = FrameKey(0, Fraction(frame, last))
            return Noise(self.seed)("midpoint", key, candidate=candidate, shape=shape)[None]

        cat, tiger = (to_tensor([picture]) for picture in self.pictures)
        frames = transcribed(pipe, (cat, tiger), PROMPTS, "", self.procedure, noise)
        return torch.cat([frames[number] for number in sorted(frames)]).float().cpu()

    def by_the_engine(self, segue: Interpolator, **settings: Any) -> Tensor:
        """The same frames by the engine, without poses, alignment and detail, which the paper has not."""
        same = {
            "num_frames": self.procedure.num_frames,
            "noise": self.procedure.noise,
            "guidance_scale": self.procedure.guidance_scale,
            "candidates": self.procedure.candidates,
            "seed": self.seed,
            "width": self.size,
            "height": self.size,
        }
        with tempfile.TemporaryDirectory() as folder:
            values = {**same, **settings}
            morph = segue(
                *self.pictures,
                output=Path(folder) / "run",
                prompt=PROMPTS,
                pose="off",
                align=False,
                detail=0.0,
                **values,
            )
            return to_tensor(list(morph.frames)[1:-1])


def plain_pipe(device: torch.device) -> Any:
    """Pocket in float32 as diffusers loads it, without anything of the engine's."""
    with loading.quiet():
        pipe = StableDiffusionPipeline.from_pretrained(models.pocket_folder(), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def distance(a: Tensor, b: Tensor) -> float:
    """How far the frames of two films are apart: the root mean square of their pixels' differences, in [0, 1]."""
    return float(((a - b) / 2).square().mean((1, 2, 3)).sqrt().mean())


@contextmanager
def counted(unet: nn.Module) -> Iterator[Calls]:
    """Count a UNet's calls and the samples in them, by a hook."""
    calls = Calls()

    def count(_module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        calls.calls += 1
        calls.samples += len(arguments[0] if arguments else options["sample"])

    handle = unet.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()
