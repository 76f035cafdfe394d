"""All settings, with their defaults, bounds and help: the library, the command line and the studio read them here.

Those that determine the images (MorphSettings), those of computing (ComputeSettings) and those of the film
(FilmSettings); beside them which checkpoint is loaded, and how (ModelSettings). Of the three kinds only the first makes
a different run. This module imports no torch.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from numbers import Real
from os import PathLike
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from segue.errors import SegueError
from segue.method.perceptual import network_parts
from segue.method.timing import parse_easing
from segue.method.tree import is_growth

__all__ = [
    "ALL",
    "GROUPS",
    "HIDDEN",
    "INVERTING",
    "LOADED",
    "RARE",
    "SCHEMES",
    "SOLVERS",
    "ComputeSettings",
    "FilmSettings",
    "InversionSettings",
    "LoadSettings",
    "ModelSettings",
    "MorphSettings",
    "Settings",
    "fields",
    "guess_name",
    "hint",
    "parse_settings",
    "size_of",
    "update_settings",
]

Scheme = Literal[
    "branching",
    "interpolate",
    "interpolate-denoise",
    "denoise-interpolate-denoise",
    "denoise-interpolate-denoise-unshared",
    "noise-diffusion",
    "diffmorpher",
]
Solver = Literal["dpm++", "ddim", "euler", "lcm", "tcd", "pipe"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
INVERTING = ("noise-diffusion", "diffmorpher")  # schemes that make each frame from the noise of two keyframes
SOLVERS: tuple[str, ...] = get_args(Solver)


def _several(value: object) -> object:
    """One text or number stands for a list of one."""
    return (value,) if isinstance(value, str | Real) else value


def _range(value: object) -> object:
    """One number stands for a range from itself to itself."""
    values = _several(value)
    return values * 2 if isinstance(values, list | tuple) and len(values) == 1 else values


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
Levels = Annotated[tuple[Fraction01, ...], BeforeValidator(_range)]
SIZE = r"^[1-9]\d{0,4}x[1-9]\d{0,4}$"
Factors = Annotated[tuple[Annotated[float, Field(gt=0.05, lt=20)], ...], BeforeValidator(_several)]
Angles = Annotated[tuple[Annotated[float, Field(ge=-360, le=360)], ...], BeforeValidator(_several)]


class Settings(BaseModel):
    """What all settings share: they do not change once they are made, and what is wrong is told in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        """Settings from values by name.

        Raises:
            SegueError: an unknown name or a wrong value.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SegueError(_one_line(error, type(self))) from error


class LoadSettings(Settings):
    """How a checkpoint is loaded."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="Precision; by default what suits the device."
    )
    device: str | None = Field(default=None, description="cpu, cuda, cuda:1 or mps; by default the best available.")
    low_memory: bool = Field(default=False, description="Offload idle networks; make one frame at a time, in tiles.")


class ModelSettings(LoadSettings):
    """Which checkpoint is loaded, and how; names and folders as ``Interpolator.from_pretrained`` takes them."""

    model: str | None = Field(
        default=None, description="Checkpoint: hub name, folder or .safetensors file; by default the built-in pocket."
    )
    controlnet: str | None = Field(default=None, description="ControlNet: hub name or folder; pocket has its own.")
    variant: str | None = Field(
        default=None, pattern=r"^\w+$", description="Variant of the checkpoint's weights, such as fp16."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a checkpoint with a hub name.")
    prediction_type: Literal["epsilon", "v_prediction"] | None = Field(
        default=None, description="What the checkpoint's network predicts, if its own word for it is missing or wrong."
    )
    lora: Names = Field(default=(), description="LoRA: .safetensors file, or FILE:WEIGHT; also several times.")
    vae: Name | None = Field(
        default=None, description="VAE: folder or .safetensors file; the checkpoint's own if not given."
    )
    embedding: Names = Field(
        default=(), description="File of a learnt token, which prompts use by the file's name; also several times."
    )
    clip_skip: int = Field(
        default=0,
        ge=0,
        le=11,
        description="Last layers of the text encoder to skip; 1 is what others call clip skip 2.",
    )
    image_adapter: str | None = Field(
        default=None, description="IP-Adapter, which takes the keyframes as prompts: file, folder or hub file."
    )


# How a run's model was loaded, beside its name: what a run keeps, to load it again.
LOADED = tuple(sorted(ModelSettings.model_fields.keys() - {"model", "device", "low_memory"}))


class InversionSettings(Settings):
    """Textual inversion (the paper's section 4.2)."""

    inversion: int = Field(
        default=0, ge=0, le=10_000, description="Steps of textual inversion; 0 leaves the prompts as they are."
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


class MorphSettings(InversionSettings):
    """Everything that determines the images."""

    num_frames: int = Field(
        default=17, ge=3, le=1025, description="Frames from one keyframe to the next, both included."
    )
    loop: bool = Field(default=False, description="Return from the last keyframe to the first.")
    scheme: Scheme = Field(default="branching", description="Method that makes the frames in between.")
    noise: Levels = Field(
        default=(0.30, 0.55),
        min_length=2,
        description="Noise range, from the last tree level to the first (with pocket 0.2 0.2), "
        "or one number per level, first to last.",
    )
    noise_shift: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="Multiplies the ratio of noise to signal of each noise level; more than 1 for larger pictures.",
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
    seed: int = Field(default=0, ge=0, lt=2**63, description="Random seed.")

    fit_model: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="Steps in which a LoRA is fitted to each keyframe; 200 with the scheme diffmorpher, else none.",
    )

    solver: Solver = Field(default="dpm++", description="Solver that denoises.")
    num_inference_steps: int = Field(
        default=28,
        ge=1,
        le=1000,
        description="Denoising steps over the whole schedule (with pocket 25).",
    )
    guidance_scale: float = Field(
        default=5.0, ge=0, le=100, description="Strength of classifier-free guidance (with pocket 1, which is none)."
    )
    guidance_start: float = Field(
        default=0.0, ge=0, le=1, description="Share of the denoising at which guidance begins."
    )
    guidance_end: float = Field(
        default=1.0, ge=0, le=1, description="Share of the denoising at which guidance ends; a step without costs half."
    )
    eta: float = Field(default=0.0, ge=0, le=1, description="Share of fresh noise in each step of ddim; gamma of tcd.")
    attention: Literal["none", "inner", "outer"] = Field(
        default="none",
        description="Attention interpolation: frames attend to both parents too, blended before attention or after it.",
    )
    attention_share: float = Field(
        default=0.5, ge=0, le=1, description="Share of the denoising, from its start, with attention interpolation."
    )

    prompt: Texts = Field(default=(), description="Prompt for all keyframes, or one for each.")
    negative_prompt: str = Field(default="", description="What the frames should not show.")
    prompt_at: dict[float, str] = Field(
        default_factory=dict, description="Prompt for a place between keyframes, as 0.5=TEXT or 1.25=TEXT."
    )
    captioner: str | None = Field(
        default=None, description="Model that writes prompts where none is given: pocket, blip, a name, or none."
    )
    embedding_blend: Literal["whole", "token", "linear"] = Field(
        default="whole", description="Blend prompts by slerp on the whole embedding or per token, or linearly."
    )
    image_prompt: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="With --image-adapter, strength of the keyframes as prompts; 0 is off, the model's own by default.",
    )

    candidates: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Candidates per frame at the first level; one fewer at each level, at least 3.",
    )
    rank_for: Texts = Field(default=(), description="Prompt that the best candidate resembles.")
    rank_against: Texts = Field(default=(), description="Prompt that the best candidate does not resemble.")
    ranker: str | None = Field(default=None, description="CLIP model that ranks; pocket's own if not given.")

    pose: Name = Field(
        default="auto", description="auto, off, or the keyframes' OpenPose JSON files, separated by commas."
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
        default=(), description="Control image of another kind than poses, one for each keyframe."
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
        default=None, pattern=SIZE, description="Frame size, as WxH; by default the keyframes' own, up to 1024 pixels."
    )
    network_size: str | None = Field(
        default=None,
        pattern=SIZE,
        description="Size at which the model works, as WxH; by default near the one that it was trained at.",
    )
    fit: Literal["cover", "contain", "stretch"] = Field(
        default="cover", description="How keyframes are fitted to the frame size."
    )
    background: str = Field(
        default="white",
        description="Colour behind transparent pixels and around fitted keyframes; transparent keeps alpha.",
    )

    refine: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Split each step of the finished tree again, at low noise: 4 for 4 times the steps.",
    )
    spacing: str = Field(
        default="uniform",
        description="uniform, or perceptual[:NETWORK]: more frames where neighbours differ more.",
    )
    max_distance: float = Field(
        default=0.0, ge=0, description="With perceptual spacing, neighbours nearer than this get no frame between them."
    )
    zoom: Factors = Field(
        default=(1.0,),
        min_length=1,
        description="Camera zoom factor per gap.",
    )
    pan: Shifts = Field(
        default=((0.0, 0.0),),
        min_length=1,
        description="Camera pan per gap, in frame widths and heights, as 0.5,0.",
    )
    rotate: Angles = Field(
        default=(0.0,), min_length=1, description="Degrees that the picture turns clockwise, per gap."
    )
    colour_match: float = Field(
        default=0.0, ge=0, le=1, description="How strongly frames follow the coarse colours between their keyframes."
    )
    align: bool = Field(default=True, description="Align the keyframes, so that shapes move instead of fading.")
    points: Name = Field(
        default="", description="JSON file of places that correspond in neighbouring keyframes (docs/films.md)."
    )
    detail: float = Field(
        default=1.0, ge=0, le=1, description="How much of what the model loses of the keyframes is given back."
    )

    def model_post_init(self, _context: Any, /) -> None:
        """Check what no field can tell by itself."""
        if len(self.noise) == 2 and self.noise[0] > self.noise[1]:
            raise SegueError(f"noise is a range from low to high, not from {self.noise[0]} to {self.noise[1]}")
        if len(self.noise) > 2 and self.scheme != "branching":
            raise SegueError(f"noise: {self.scheme} takes a range of two numbers, not {len(self.noise)} levels")
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
        kind, colon, network = self.spacing.partition(":")
        if kind not in ("uniform", "perceptual") or (colon and kind == "uniform"):
            raise SegueError(f"spacing is uniform, perceptual or perceptual:NETWORK, not '{self.spacing}'")
        if colon:
            network_parts(network)
        if self.is_perceptual and (self.scheme not in ("branching", *INVERTING) or self.branching != 2):
            raise SegueError("perceptual spacing needs the scheme branching, with branching 2")
        if self.refine > 1 and not self.can_grow:
            raise SegueError("refine needs the scheme branching with uniform spacing")
        if self.refine > 1 and not is_growth(2, self.refine + 1, self.branching):
            raise SegueError(f"refine is a power of branching ({self.branching}), not {self.refine}")
        if self.points and not self.align:
            raise SegueError("points needs align, which is off")
        if self.moves and (self.loop or self.scheme != "branching"):
            raise SegueError("zoom, pan and rotate need the scheme branching, and no loop")
        if self.candidates > 1 and self.scheme != "branching":
            raise SegueError(f"candidates need the scheme branching, not {self.scheme}")
        if self.bias and self.scheme != "branching":
            raise SegueError(f"bias needs the scheme branching, not {self.scheme}")
        if self.attention != "none" and self.scheme in ("noise-diffusion", "diffmorpher"):
            raise SegueError(f"attention: {self.scheme} has no parents that a frame could attend to")
        if self.retroactive and not self.scheme.startswith("denoise-interpolate-denoise"):
            raise SegueError(f"retroactive needs the scheme denoise-interpolate-denoise, not {self.scheme}")
        if self.max_distance and not self.is_perceptual:
            raise SegueError("max_distance needs perceptual spacing: set spacing to perceptual")
        if self.control_image and self.pose not in ("auto", "off"):
            raise SegueError("pose files and control_image do not go together: the ControlNet takes one of them")
        if self.eta and self.solver not in ("ddim", "tcd"):
            raise SegueError(f"eta needs the solver ddim or tcd, not {self.solver}")

    @property
    def can_grow(self) -> bool:
        """Whether all frames of a smaller film are frames of a larger one."""
        return self.scheme == "branching" and not self.is_perceptual

    @property
    def lora_steps(self) -> int:
        """Steps in which a LoRA is fitted to each keyframe."""
        if self.fit_model is None:
            return 200 if self.scheme == "diffmorpher" else 0
        return self.fit_model

    @property
    def is_perceptual(self) -> bool:
        """Whether there are more frames where neighbours look farther apart."""
        return self.spacing != "uniform"

    @property
    def network(self) -> str:
        """The feature network that tells how far apart two frames look."""
        return self.spacing.partition(":")[2] or "pocket"

    @property
    def film_size(self) -> tuple[int, int] | None:
        """The size (width, height) of the frames that is asked for."""
        asked = self.size or self.network_size
        return size_of(asked) if asked else None

    @property
    def noise_range(self) -> tuple[float, float]:
        """The least and the greatest noise level."""
        return min(self.noise), max(self.noise)

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


class ComputeSettings(Settings):
    """How the images are computed; none of these makes a different run."""

    batch_size: int = Field(default=0, ge=0, le=1024, description="Frames in one batch; 0 finds it from free memory.")
    keep_candidates: bool = Field(default=False, description="Keep the pictures of all candidates on disk.")


class FilmSettings(Settings):
    """How the frames become a film; changing these costs no network call."""

    fps: float = Field(default=24.0, ge=0.1, le=240, description="Frames per second of the file.")
    seconds: float | None = Field(
        default=None,
        gt=0,
        le=3600,
        description="Seconds per gap; by default 1.33, or as long as its frames take at fps.",
    )
    hold: float = Field(default=0.5, ge=0, le=60, description="Seconds that each keyframe stays on screen.")
    boomerang: bool = Field(default=False, description="Play forwards, then backwards.")
    easing: str = Field(
        default="linear",
        description="Speed over each gap: linear, ease-in, ease-out, ease-in-out, a Bezier curve as 0.42,0,0.58,1, "
        "or even[:NETWORK].",
    )
    smooth: Literal["none", "dissolve", "motion"] = Field(
        default="none",
        description="Fill the time between frames with dissolves, or with pictures along the motion.",
    )
    quality: int = Field(
        default=18, ge=0, le=51, description="Quality of .mp4, .webm and .webp: 0 is the best, 51 the worst."
    )

    def model_post_init(self, _context: Any, /) -> None:
        """Check what no field can tell by itself."""
        if self.even_network is None:
            parse_easing(self.easing)
        else:
            network_parts(self.even_network)

    @property
    def even_network(self) -> str | None:
        """The feature network to which the film moves evenly; None where it does not."""
        kind, _, network = self.easing.partition(":")
        return (network or "pocket") if kind == "even" else None


ALL: Mapping[str, FieldInfo] = {
    name: field
    for kind in (MorphSettings, FilmSettings, ModelSettings, ComputeSettings)
    for name, field in kind.model_fields.items()
}

# The settings by what they are about, for the help, the studio and settings files.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Frames": (
        *("num_frames", "loop", "seed", "size", "network_size", "fit", "background"),
        *("scheme", "noise", "noise_shift", "branching", "bias", "retroactive", "refine", "spacing", "max_distance"),
        *("align", "points", "detail", "colour_match", "attention", "attention_share"),
        *("candidates", "rank_for", "rank_against", "ranker"),
    ),
    "Words": (
        "prompt",
        "negative_prompt",
        "prompt_at",
        "captioner",
        "embedding_blend",
        "image_prompt",
        *InversionSettings.model_fields,
        "fit_model",
    ),
    "Poses and control": (
        *("pose", "pose_detector", "pose_matching", "pose_hold", "pose_via_photo"),
        *("control_image", "control_scale", "control_flat", "control_start", "control_end", "control_convention"),
    ),
    "Camera": ("zoom", "pan", "rotate"),
    "Film": tuple(FilmSettings.model_fields),
    "Model": (
        *("model", "controlnet", "image_adapter", "variant", "revision", "prediction_type"),
        *("lora", "vae", "embedding", "clip_skip"),
        *("solver", "num_inference_steps"),
        *("guidance_scale", "guidance_start", "guidance_end", "eta"),
    ),
    "Computing": ("device", "dtype", "low_memory", *ComputeSettings.model_fields),
}
# Those that the help leaves out; --set NAME=VALUE, settings files and the library take them.
RARE = frozenset(
    {
        *(
            "network_size",
            "noise_shift",
            "branching",
            "bias",
            "retroactive",
            "refine",
            "max_distance",
            "captioner",
            "detail",
        ),
        *("colour_match", "attention", "attention_share", "rank_against", "ranker", "embedding_blend"),
        *(name for name in InversionSettings.model_fields if name != "inversion"),
        *("pose_detector", "pose_matching", "pose_hold", "pose_via_photo"),
        *("control_scale", "control_flat", "control_start", "control_end", "control_convention"),
        *("guidance_start", "guidance_end", "eta", "quality", "batch_size", "keep_candidates"),
    }
)
# Options that the help of commands which make frames leaves out.
HIDDEN = frozenset(
    {
        *("variant", "revision", "prediction_type", "vae", "embedding", "clip_skip"),
        *("image_adapter", "image_prompt", "prompt_at", "fit_model"),
    }
)
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
    "width": "size",
    "height": "size",
    "inversion_iterations": "inversion",
    "noise_levels": "noise",
    "timing": "easing",
    "look": "spacing",
    "checkpoint": "model",
    "loras": "lora",
    "textual_inversion": "embedding",
    "framerate": "fps",
}
Kind = TypeVar("Kind", bound=Settings)


def fields(kind: type[Settings]) -> dict[str, FieldInfo]:
    """The fields of a settings class by name, with default, bounds and description."""
    return kind.model_fields


def size_of(text: str) -> tuple[int, int]:
    """Width and height of a size as 640x480."""
    width, _, height = text.partition("x")
    return int(width), int(height)


def guess_name(name: str, known: Collection[str]) -> str | None:
    """Which of the known names somebody means who gives another; None for no idea."""
    alias = ALIASES.get(name)
    if alias in known:
        return alias
    return next(iter(get_close_matches(name, known, 1, 0.75)), None)


def parse_settings(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Settings from values by name; SegueError with one line for an unknown name or a wrong value."""
    return kind(**values)


def update_settings(settings: Kind, values: Mapping[str, Any]) -> Kind:
    """The settings with some values changed, checked anew."""
    return type(settings)(**{**dict(settings), **values})


def _one_line(error: ValidationError, kind: type[Any]) -> str:
    """The first fault of a validation as one line that names the setting."""
    fault = error.errors(include_url=False)[0]
    where = [str(part) for part in fault["loc"]]
    name = where[0] if where else "settings"
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, SegueError):
        return str(cause)
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [*kind.model_fields, *(["callback"] if kind is MorphSettings else [])]
        return f"unknown setting '{name}'{hint(name, known)}"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{name}: {message}, not {fault['input']!r}"


def hint(name: str, known: Collection[str]) -> str:
    """What an unknown setting is called here, in words; nothing where it is not known."""
    if found := guess_name(name, known):
        return f"; did you mean {found}?"
    own = ALIASES.get(name, name)
    return f"; {own} is the film's: save(path, {own}=...)" if own in FilmSettings.model_fields else ""
