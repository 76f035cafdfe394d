"""All settings, with their defaults, bounds and help: the library, the command line and the studio read them here.

Those that determine the images (MorphSettings), those of computing (ComputeSettings) and those of the film
(FilmSettings); beside them which checkpoint is loaded, and how (ModelSettings). Of the three kinds only the first makes
a different run. This module imports no torch.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from numbers import Real
from os import PathLike
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from segue.errors import SegueError
from segue.method.perceptual import look_parts
from segue.method.timing import easing_named
from segue.method.tree import grows

__all__ = [
    "ALIASES",
    "GROUPS",
    "PRESETS",
    "PRESET_HELP",
    "SCHEMES",
    "SOLVERS",
    "ComputeSettings",
    "FilmSettings",
    "InversionSettings",
    "LoadSettings",
    "ModelSettings",
    "MorphSettings",
    "as_json",
    "checked",
    "differences",
    "fields",
    "meant",
    "model_differences",
    "option_name",
    "preset_settings",
    "texts_by_place",
    "updated",
    "with_preset",
    "without_effect",
]

SCHEMES = (
    "branching",
    "interpolate",
    "interpolate-denoise",
    "denoise-interpolate-denoise",
    "denoise-interpolate-denoise-unshared",
)
SOLVERS = ("dpm++", "ddim", "euler", "pipe")

Scheme = Literal[
    "branching",
    "interpolate",
    "interpolate-denoise",
    "denoise-interpolate-denoise",
    "denoise-interpolate-denoise-unshared",
]
Solver = Literal["dpm++", "ddim", "euler", "pipe"]


def _several(value: object) -> object:
    """One text or number stands for a list of one."""
    return (value,) if isinstance(value, str | Real) else value


def _names(value: object) -> object:
    """Names of files as texts, whatever they were given as; one stands for a list of one."""
    values = (value,) if isinstance(value, str | PathLike) else value
    return tuple(map(_name, values)) if isinstance(values, list | tuple) else values


def _name(value: object) -> object:
    return str(value) if isinstance(value, PathLike) else value


def _shifts(value: object) -> object:
    """One shift stands for a list of one, and texts such as "0.5,0" for two numbers."""
    values = _several(value)
    if not isinstance(values, list | tuple):
        return value
    if len(values) == 2 and all(isinstance(number, Real) for number in values):
        values = (values,)
    shifts = tuple(shift.split(",") if isinstance(shift, str) else shift for shift in values)
    for given, shift in zip(values, shifts, strict=True):
        if not isinstance(shift, list | tuple) or len(shift) != 2:
            raise SegueError(f"pan takes two numbers for a gap, as 0.5,0, not {given!r}")
    return shifts


Texts = Annotated[tuple[str, ...], BeforeValidator(_several)]
Name = Annotated[str, BeforeValidator(_name)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Shift = tuple[Annotated[float, Field(ge=-5, le=5)], Annotated[float, Field(ge=-5, le=5)]]
Shifts = Annotated[tuple[Shift, ...], BeforeValidator(_shifts)]
Fraction01 = Annotated[float, Field(gt=0, lt=1)]
Levels = Annotated[tuple[Fraction01, ...], BeforeValidator(_several)]
Factors = Annotated[tuple[Annotated[float, Field(gt=0.05, lt=20)], ...], BeforeValidator(_several)]
Angles = Annotated[tuple[Annotated[float, Field(ge=-360, le=360)], ...], BeforeValidator(_several)]

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_CONFIG)
class LoadSettings:
    """How a checkpoint is loaded."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="Precision; what the device does well if not given."
    )
    device: str | None = Field(default=None, description="cpu, cuda, cuda:1, mps; the best there is if not given.")
    low_memory: bool = Field(
        default=False, description="Offload networks that do not compute; one frame at a time, in tiles."
    )


@dataclass(frozen=True, config=_CONFIG)
class ModelSettings(LoadSettings):
    """Which checkpoint is loaded, and how; names and folders as ``Interpolator.from_pretrained`` takes them."""

    model: str | None = Field(
        default=None, description="Checkpoint: hub name or folder; the embedded pocket if not given."
    )
    controlnet: str | None = Field(
        default=None, description="ControlNet: hub name or folder; pocket's own with pocket."
    )


@dataclass(frozen=True, config=_CONFIG)
class InversionSettings:
    """Textual inversion (DESIGN section 3, "Text"; the paper's section 4.2)."""

    inversion_iterations: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Iterations of textual inversion; 0 leaves the prompts as they are. "
        "With pocket 50 at a rate of 1e-2, which brings frames no nearer (docs/words.md).",
    )
    inversion_learning_rate: float = Field(default=1e-4, gt=0, le=1, description="Adam's step size in the inversion.")
    inversion_batch: int = Field(
        default=1, ge=1, le=64, description="Noise draws per keyframe in each iteration of the inversion."
    )
    inversion_timesteps: Literal["all", "middle"] = Field(
        default="all", description="Timesteps drawn in the inversion: all, or only the middle third of the schedule."
    )
    inversion_guidance: bool = Field(
        default=False, description="Apply classifier-free guidance inside the inversion's loss."
    )
    inversion_augment: bool = Field(
        default=False, description="Crop and recolour the keyframes a little in each iteration of the inversion."
    )
    inversion_negative: bool = Field(
        default=True, description="Also fit one negative embedding that all keyframes share."
    )


@dataclass(frozen=True, config=_CONFIG)
class MorphSettings(InversionSettings):
    """Everything that determines the images."""

    num_frames: int = Field(
        default=17, ge=3, le=1025, description="Frames from one keyframe to the next, both included."
    )
    loop: bool = Field(default=False, description="Go back from the last keyframe to the first.")
    scheme: Scheme = Field(default="branching", description="The way in which the frames between are made.")
    noise: tuple[Fraction01, Fraction01] = Field(
        default=(0.30, 0.55),
        description="Range of noise levels, from the deepest level of the tree to the first. With pocket 0.2 0.2.",
    )
    noise_spacing: Literal["linear", "convex", "concave"] = Field(
        default="linear", description="Spacing of the noise levels over their range."
    )
    noise_levels: Levels = Field(
        default=(), description="An explicit noise level for each level of the tree, first level first."
    )
    branching: int = Field(default=2, ge=2, le=64, description="Into how many parts a level splits each gap.")
    bias: float = Field(
        default=0.0,
        ge=0,
        lt=0.5,
        description="Moves the frames next to a keyframe towards it: 0.1 blends them by 0.4 instead of 0.5.",
    )
    retroactive: bool = Field(
        default=False, description="Blend older frames again in denoise-interpolate-denoise, as the released code does."
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of all randomness.")

    solver: Solver = Field(default="dpm++", description="The solver that denoises.")
    num_inference_steps: int = Field(
        default=28,
        ge=1,
        le=1000,
        description="Denoising steps over the whole schedule; a frame takes its share. With pocket 25.",
    )
    guidance_scale: float = Field(
        default=5.0, ge=0, le=100, description="Strength of classifier-free guidance. With pocket 1, which is none."
    )
    guidance_start: float = Field(
        default=0.0, ge=0, le=1, description="Share of the denoising at which guidance begins."
    )
    guidance_end: float = Field(
        default=1.0, ge=0, le=1, description="Share of the denoising at which guidance ends; a step without costs half."
    )
    eta: float = Field(default=0.0, ge=0, le=1, description="Share of fresh noise in each step of ddim.")

    prompt: Texts = Field(default=(), description="One prompt for all keyframes, or one for each.")
    negative_prompt: str = Field(default="", description="What the frames should not show.")
    prompt_at: dict[float, str] = Field(
        default_factory=dict, description="Prompts for places between the keyframes, as 0.5=TEXT or 1.25=TEXT."
    )
    captioner: str | None = Field(
        default=None, description="Model that writes prompts where none is given: pocket, blip, a name, or none."
    )
    embedding_blend: Literal["whole", "token", "linear"] = Field(
        default="whole", description="Blend prompts by slerp on the whole embedding or per token, or linearly."
    )

    candidates: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Candidates for a frame at the first level; one fewer at each level, least 3.",
    )
    rank_for: Texts = Field(default=(), description="Prompts that the best candidate resembles.")
    rank_against: Texts = Field(default=(), description="Prompts that the best candidate does not resemble.")
    ranker: str | None = Field(default=None, description="CLIP model that ranks; pocket's own if not given.")

    pose: Name = Field(
        default="auto", description="auto, off, or OpenPose JSON files of the keyframes, separated by commas."
    )
    pose_detector: Literal["pocket", "blazepose", "rtmlib"] | None = Field(
        default=None, description="The detector of poses; pocket for drawn figures, else blazepose, if not given."
    )
    pose_matching: Literal["largest", "left-to-right", "nearest"] = Field(
        default="largest", description="How people of two keyframes are matched."
    )
    pose_hold: bool = Field(
        default=False, description="Hold keypoints that only one keyframe has, instead of dropping them."
    )
    pose_via_photo: bool = Field(
        default=False, description="Translate a drawing without a detected person to a photograph first."
    )
    control_image: Names = Field(
        default=(), description="Control images of another kind than poses, one for each keyframe."
    )
    control_scale: float = Field(
        default=1.5, ge=0, le=10, description="Strength of the ControlNet in the middle of a gap; 1 at the keyframes."
    )
    control_flat: bool = Field(default=False, description="Keep the ControlNet's strength the same in all frames.")
    control_start: float = Field(default=0.0, ge=0, le=1, description="Share of the denoising at which control begins.")
    control_end: float = Field(default=1.0, ge=0, le=1, description="Share of the denoising at which control ends.")
    control_convention: Literal["controlnet1.0", "controlnet1.1", "thick"] | None = Field(
        default=None,
        description="How skeletons are drawn; as the ControlNet's name says if not given.",
    )

    size: str | None = Field(
        default=None,
        pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$",
        description="Size of the frames as WxH; the keyframes' own, up to 1024 pixels, if not given. "
        "The model works at the size that it was made for.",
    )
    width: int | None = Field(
        default=None, ge=8, le=16384, description="Width in pixels at which the model works, and of the frames."
    )
    height: int | None = Field(
        default=None, ge=8, le=16384, description="Height in pixels at which the model works, and of the frames."
    )
    fit: Literal["cover", "contain", "stretch"] = Field(
        default="cover", description="How keyframes are fitted to the frames' size."
    )
    background: str = Field(
        default="white",
        description="Colour behind transparent pixels and around fitted ones; transparent makes frames with alpha.",
    )

    refine: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Split each step of the finished tree again, at low noise: 4 for 4 times the steps.",
    )
    spacing: Literal["uniform", "perceptual"] = Field(
        default="uniform", description="Equal steps, or more frames where neighbours look farther apart."
    )
    max_distance: float = Field(
        default=0.0, ge=0, description="With perceptual spacing, neighbours nearer than this get no frame between them."
    )
    look: str = Field(
        default="pocket",
        description="Feature network that tells how far apart two frames look: pocket, pixels, clip:NAME, dinov2, "
        "inception:FILE, lpips:FILE.",
    )
    zoom: Factors = Field(
        default=(1.0,),
        min_length=1,
        description="Factor by which the camera zooms in over a gap; one, or one for each gap.",
    )
    pan: Shifts = Field(
        default=((0.0, 0.0),),
        min_length=1,
        description="Way of the camera over a gap, in widths and heights, as 0.5,0.",
    )
    rotate: Angles = Field(
        default=(0.0,), min_length=1, description="Degrees by which the picture turns clockwise over a gap."
    )
    motion_space: Literal["pixel", "latent"] = Field(
        default="pixel", description="Move the parents' pictures (exact), or their latents (quicker, coarser)."
    )
    colour_match: float = Field(
        default=0.0, ge=0, le=1, description="How strongly frames follow the coarse colours between their keyframes."
    )
    align: bool = Field(
        default=True, description="Bring keyframes into correspondence, so that shapes move instead of fading."
    )
    points: Name = Field(
        default="", description="JSON file of places that correspond in neighbouring keyframes (docs/films.md)."
    )
    detail: float = Field(
        default=1.0, ge=0, le=1, description="How much of what the model loses of the keyframes is given back."
    )

    def __post_init__(self) -> None:
        low, high = self.noise
        if low > high:
            raise SegueError(f"noise is a range from low to high, not from {low} to {high}")
        if (self.rank_for or self.rank_against) and self.candidates == 1:
            raise SegueError("rank_for and rank_against need candidates to choose from: set candidates to 2 or more")
        if self.control_start > self.control_end:
            raise SegueError(f"control_start ({self.control_start:g}) lies behind control_end ({self.control_end:g})")
        if self.guidance_start > self.guidance_end:
            raise SegueError(
                f"guidance_start ({self.guidance_start:g}) lies behind guidance_end ({self.guidance_end:g})"
            )
        if any(not text.strip() for text in self.prompt):
            raise SegueError("prompt: an empty text; leave the prompt out to have one found")
        if self.spacing == "perceptual" and (self.scheme != "branching" or self.branching != 2):
            raise SegueError("perceptual spacing needs the scheme branching, with branching 2")
        if self.refine > 1 and not self.can_grow:
            raise SegueError("refine needs the scheme branching with uniform spacing")
        if self.refine > 1 and not grows(2, self.refine + 1, self.branching):
            raise SegueError(f"refine is a power of branching ({self.branching}), not {self.refine}")
        if self.points and not self.align:
            raise SegueError("points needs align, which is off")
        if self.size and (self.width or self.height):
            raise SegueError("size stands for the frames' width and height; give either size, or width and height")
        if self.moves and (self.loop or self.scheme != "branching"):
            raise SegueError("zoom, pan and rotate need the scheme branching, and no loop")
        if self.candidates > 1 and self.scheme != "branching":
            raise SegueError(f"candidates need the scheme branching, not {self.scheme}")
        if self.noise_levels and self.scheme != "branching":
            raise SegueError(f"noise_levels need the scheme branching, not {self.scheme}, which takes noise")
        if self.bias and self.scheme != "branching":
            raise SegueError(f"bias needs the scheme branching, not {self.scheme}")
        if self.retroactive and not self.scheme.startswith("denoise-interpolate-denoise"):
            raise SegueError(f"retroactive needs the scheme denoise-interpolate-denoise, not {self.scheme}")
        if self.max_distance and self.spacing != "perceptual":
            raise SegueError("max_distance needs perceptual spacing: set spacing to perceptual")
        if self.control_image and self.pose not in ("auto", "off"):
            raise SegueError("pose files and control_image do not go together: the ControlNet takes one of them")
        look_parts(self.look)
        if self.eta and self.solver != "ddim":
            raise SegueError(f"eta needs the solver ddim, not {self.solver}")

    @property
    def can_grow(self) -> bool:
        """Whether all frames of a smaller film are frames of a larger one."""
        return self.scheme == "branching" and self.spacing == "uniform"

    @property
    def is_transparent(self) -> bool:
        """Whether what is transparent in keyframes is so in frames."""
        return self.background == "transparent"

    @property
    def ground(self) -> str:
        """A colour for what cannot be transparent."""
        return "white" if self.is_transparent else self.background

    @property
    def steps(self) -> int:
        """The steps from one keyframe to the next in a film of uniform spacing."""
        return (self.num_frames - 1) * self.refine

    @property
    def moves(self) -> bool:
        """Whether the camera moves."""
        return set(self.zoom) != {1.0} or set(self.rotate) != {0.0} or set(self.pan) != {(0.0, 0.0)}

    def candidates_at(self, level: int) -> int:
        """Candidates of each midpoint of a level: n, n - 1, ... but at least 3 (or n, where n is less)."""
        return max(self.candidates - level, min(3, self.candidates))


@dataclass(frozen=True, config=_CONFIG)
class ComputeSettings:
    """How the images are computed; none of these makes a different run."""

    batch_size: int = Field(default=0, ge=0, le=1024, description="Frames in one batch; 0 finds it from free memory.")
    keep_candidates: bool = Field(default=False, description="Keep the pictures of all candidates on disk.")
    preview: bool = Field(default=False, description="Write a contact sheet after each level.")


@dataclass(frozen=True, config=_CONFIG)
class FilmSettings:
    """How the frames become a film; changing these costs no network call."""

    fps: float = Field(default=24.0, ge=0.1, le=240, description="Frames per second of the file; pictures repeat.")
    seconds: float | None = Field(
        default=None,
        gt=0,
        le=3600,
        description="Seconds from one keyframe to the next; 1.33, or as long as its frames take at fps, if not given.",
    )
    hold: float = Field(default=0.5, ge=0, le=60, description="Seconds for which each keyframe is held.")
    boomerang: bool = Field(default=False, description="Play the film forth and back.")
    timing: Literal["uniform", "even"] = Field(
        default="uniform", description="Show all frames equally long, or so that the film moves evenly to the eye."
    )
    easing: str = Field(
        default="linear",
        description="Speed over each gap: linear, ease-in, ease-out, ease-in-out, or a Bezier curve as 0.42,0,0.58,1.",
    )
    smooth: Literal["none", "dissolve", "motion"] = Field(
        default="none",
        description="Fill the film's rate with dissolves, or with pictures along the motion, instead of repeats.",
    )
    quality: int = Field(
        default=18, ge=0, le=51, description="Quality of .mp4, .webm and .webp: 0 is the best, 51 the worst."
    )

    def __post_init__(self) -> None:
        easing_named(self.easing)


_POSES = {"pose_detector", "pose_matching", "pose_hold", "pose_via_photo"}
_CONTROL = {"control_scale", "control_flat", "control_start", "control_end", "control_convention"}
_DENOISING = {
    "noise",
    "noise_spacing",
    "solver",
    "num_inference_steps",
    "guidance_scale",
    "guidance_start",
    "guidance_end",
}
_INVERSION = {name for name in InversionSettings.__annotations__ if name != "inversion_iterations"}

# Settings that change nothing beside others: which, where, and in words.
_IDLE: Mapping[type[Any], Sequence[tuple[set[str], Callable[[Any], bool], str]]] = {
    MorphSettings: (
        (_INVERSION, lambda s: not s.inversion_iterations, "without --inversion-iterations"),
        (_POSES | _CONTROL, lambda s: s.pose == "off" and not s.control_image, "with --pose off"),
        (_POSES | {"control_convention"}, lambda s: bool(s.control_image), "beside --control-image"),
        (_DENOISING, lambda s: s.scheme == "interpolate", "with --scheme interpolate, which denoises nothing"),
        ({"noise", "noise_spacing"}, lambda s: bool(s.noise_levels), "beside --noise-levels"),
        ({"ranker"}, lambda s: not (s.rank_for or s.rank_against), "without --rank-for or --rank-against"),
        ({"motion_space"}, lambda s: not s.moves, "where the camera does not move"),
        ({"bias"}, lambda s: s.align, "with --align, where frames are made straight from the keyframes"),
        ({"motion_space"}, lambda s: s.align and s.moves, "with --align, which moves pictures"),
    ),
}

PRESET_HELP = (
    "Values to begin with: draft for a first look, balanced, or paper, slow and as published; "
    "paper aligns nothing, and ranks 8 candidates of a frame."
)
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "solver": "ddim",
        "num_inference_steps": 200,
        "guidance_scale": 7.5,
        "inversion_iterations": 500,
        "candidates": 8,
        "noise": (0.30, 0.55),
        "negative_prompt": "blurry, distorted, deformed, low quality, text",
        "rank_for": ("a sharp, detailed picture of high quality",),
        "rank_against": ("a blurry, distorted picture of low quality",),
        "align": False,
        "detail": 0.0,
    },
    "balanced": {},
    "draft": {"num_inference_steps": 16, "num_frames": 9},
}
# What pocket does best with, measured over the benchmark's pairs (docs/benchmarks.md); presets take precedence.
POCKET: Mapping[str, Any] = {"noise": (0.20, 0.20), "num_inference_steps": 25, "guidance_scale": 1.0}

# The settings of the images by what they are about, for the help and the studio.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Frames": (
        "num_frames",
        "loop",
        "seed",
        "size",
        "width",
        "height",
        "fit",
        "background",
        "align",
        "points",
        "detail",
        "colour_match",
        "spacing",
        "max_distance",
        "look",
        "refine",
    ),
    "Words": (
        "prompt",
        "negative_prompt",
        "prompt_at",
        "captioner",
        "embedding_blend",
        *InversionSettings.__annotations__,
    ),
    "Denoising": (
        "scheme",
        "noise",
        "noise_spacing",
        "noise_levels",
        "branching",
        "bias",
        "retroactive",
        "solver",
        "num_inference_steps",
        "guidance_scale",
        "guidance_start",
        "guidance_end",
        "eta",
    ),
    "Candidates": ("candidates", "rank_for", "rank_against", "ranker"),
    "Poses and control": (
        "pose",
        "pose_detector",
        "pose_matching",
        "pose_hold",
        "pose_via_photo",
        "control_image",
        "control_scale",
        "control_flat",
        "control_start",
        "control_end",
        "control_convention",
    ),
    "Camera": ("zoom", "pan", "rotate", "motion_space"),
}
# What people who know other programs type, and what it is called here.
ALIASES: Mapping[str, str] = {
    "steps": "num_inference_steps",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "guidance": "guidance_scale",
    "strength": "noise",
    "denoising_strength": "noise",
    "frames": "num_frames",
    "n": "num_frames",
    "neg": "negative_prompt",
    "negative": "negative_prompt",
    "sampler": "solver",
    "scheduler": "solver",
    "generator": "seed",
    "num_images_per_prompt": "candidates",
    "callback_on_step_end": "callback",
    "resolution": "size",
    "checkpoint": "model",
    "framerate": "fps",
}

Settings = TypeVar(
    "Settings", LoadSettings, ModelSettings, InversionSettings, MorphSettings, ComputeSettings, FilmSettings
)


def fields(kind: type[Any]) -> dict[str, FieldInfo]:
    """The fields of a settings class by name, with default, bounds and description."""
    found: dict[str, FieldInfo] = kind.__pydantic_fields__
    return found


def meant(name: str, known: Collection[str]) -> str | None:
    """Which of the known names somebody means who gives another; None for no idea."""
    alias = ALIASES.get(name)
    if alias in known:
        return alias
    return next(iter(get_close_matches(name, known, 1, 0.75)), None)


def option_name(field: str) -> str:
    """The command line's name of a setting: --num-frames for num_frames."""
    return "--" + field.replace("_", "-")


def texts_by_place(name: str, lines: Sequence[str]) -> dict[float, str]:
    """What lines of PLACE=TEXT say, where a place is typed as 0.5 or 1/2.

    Raises:
        SegueError: a line is something else, or a place has two texts; the message begins with ``name``.
    """
    found: dict[float, str] = {}
    for line in lines:
        typed, equals, text = line.partition("=")
        over, slash, under = typed.partition("/")
        try:
            place = float(over) / float(under if slash else 1)
        except (ValueError, ZeroDivisionError):
            place = math.nan
        if not equals or not math.isfinite(place):
            example = '0.5="a red fox" or 1/2="a red fox"'
            raise SegueError(f"{name} takes PLACE=TEXT, such as {example}, not '{line}'")
        if place in found:
            raise SegueError(f"{name} has two texts for the place {place:g}")
        found[place] = text.strip()
    return found


def checked(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Settings from values by name; SegueError with one line for an unknown name or a wrong value."""
    return kind(**values)


def updated(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with some values changed, checked anew."""
    return checked(
        type(settings), {**{f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}, **values}
    )


def without_effect(settings: MorphSettings, names: Collection[str]) -> list[str]:
    """A line for each of the named settings that changes nothing beside the others: which, and why."""
    found = [(sorted(idle & set(names)), why) for idle, is_idle, why in _IDLE[type(settings)] if is_idle(settings)]
    return [f"{option_name(name)} changes nothing {why}" for idle, why in found for name in idle]


def preset_settings(name: str, model: str | None = None) -> Mapping[str, Any]:
    """The values that a preset sets for a model, the embedded one if not given; SegueError for an unknown preset."""
    if not isinstance(name, str) or name not in PRESETS:
        raise SegueError(f"unknown preset '{name}'; there are {', '.join(PRESETS)}")
    return {**(POCKET if model in (None, "pocket") else {}), **PRESETS[name]}


def with_preset(name: str, values: Mapping[str, Any], model: str | None = None) -> dict[str, Any]:
    """The values of a preset for a model under those that are given; without its candidates where none can be made."""
    preset = dict(preset_settings(name, model))
    if values.get("scheme", "branching") != "branching" or values.get("candidates") == 1:
        for idle in ("candidates", "rank_for", "rank_against"):
            preset.pop(idle, None)
    return {**preset, **values}


def as_json(settings: InversionSettings | MorphSettings | ComputeSettings | FilmSettings) -> dict[str, Any]:
    """The settings as plain JSON values by name; ``checked`` reads them back."""
    values: dict[str, Any] = json.loads(TypeAdapter(type(settings)).dump_json(settings))
    return values


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two settings as JSON, one text each: "num_frames: 17, now 33"."""
    return [
        f"{name}: {before.get(name)!r}, now {after.get(name)!r}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def model_differences(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What differs between the parts of two models: "the VAE scaling factor was 0.18215, is 0.13025"."""
    if not before:
        return "it is not known what differs"
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if "scheduler" in changed:  # of another class, which has settings of its own
        changed = [name for name in changed if not name.startswith("scheduler ")]
    texts = []
    for name in changed:
        old, now = before.get(name, "not set"), after.get(name, "not set")
        is_digest = name.endswith((" weights", " adapters", " settings"))
        texts.append(f"the {name} differ" if is_digest else f"the {name} was {old}, is {now}")
    return ", ".join(texts)


def _one_line(error: ValidationError, kind: type[Any]) -> str:
    """The first fault of a validation as one line that names the setting."""
    fault = error.errors(include_url=False)[0]
    where = [str(part) for part in fault["loc"]]
    name = where[0] if where else "settings"
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, SegueError):
        return str(cause)
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [*fields(kind), *(["callback"] if kind is MorphSettings else [])]
        return f"unknown setting '{name}'{_hint(name, known)}"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{name}: {message}, not {fault['input']!r}"


def _hint(name: str, known: Collection[str]) -> str:
    """What an unknown setting is called here, in words; nothing where it is not known."""
    if found := meant(name, known):
        return f"; did you mean {found}?"
    own = ALIASES.get(name, name)
    return f"; {own} is the film's: save(path, {own}=...)" if own in fields(FilmSettings) else ""


def _faults_in_one_line(build: Callable[..., None]) -> Callable[..., None]:
    """A class's ``__init__`` that raises SegueError where pydantic finds a fault."""

    @wraps(build)
    def checking(self: Any, *arguments: Any, **values: Any) -> None:
        try:
            build(self, *arguments, **values)
        except ValidationError as error:
            raise SegueError(_one_line(error, type(self))) from error

    return checking


for _kind in (LoadSettings, ModelSettings, InversionSettings, MorphSettings, ComputeSettings, FilmSettings):
    setattr(_kind, "__init__", _faults_in_one_line(_kind.__init__))  # noqa: B010 - mypy refuses the plain assignment
