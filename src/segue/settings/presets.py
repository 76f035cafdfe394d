"""Values to begin with: presets, what the embedded model does best with, and what changes nothing beside the others."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

from segue.errors import SegueError
from segue.settings.kinds import InversionSettings, MorphSettings

__all__ = [
    "FAST",
    "POCKET",
    "PRESETS",
    "PRESET_HELP",
    "PresetName",
    "list_ineffective",
    "preset_settings",
    "with_preset",
]

_POSES = {"pose_detector", "pose_matching", "pose_hold", "pose_via_photo"}
_CONTROL = {"control_scale", "control_flat", "control_start", "control_end", "control_convention"}
_DENOISING = {
    "noise",
    "solver",
    "num_inference_steps",
    "guidance_scale",
    "guidance_start",
    "guidance_end",
    "attention",
    "attention_share",
    "fit_model",
}
_INVERSION = {name for name in InversionSettings.model_fields if name != "inversion"}

# Settings that change nothing beside others: which, where, and in words.
_IDLE: Sequence[tuple[set[str], Callable[[MorphSettings], bool], str]] = (
    (_INVERSION, lambda s: not s.inversion, "without --inversion"),
    (_POSES | _CONTROL, lambda s: s.pose == "off" and not s.control_image, "with --pose off"),
    (_POSES | {"control_convention"}, lambda s: bool(s.control_image), "beside --control-image"),
    (_DENOISING, lambda s: s.scheme == "interpolate", "with --scheme interpolate, which denoises nothing"),
    ({"attention_share"}, lambda s: s.attention == "none", "without --set attention=inner or outer"),
    ({"ranker"}, lambda s: not (s.rank_for or s.rank_against), "without --rank-for"),
    ({"noise"}, lambda s: s.scheme == "diffmorpher", "with --scheme diffmorpher, which begins at pure noise"),
    ({"bias"}, lambda s: s.align, "with --align, where frames are made straight from the keyframes"),
)

PRESET_HELP = (
    "Values to begin with: draft for a first look, balanced (the default), paper: slow, as published, "
    "or fast: for LCM, TCD, Turbo, schnell, Lightning and Hyper models."
)
PresetName = Literal["paper", "balanced", "draft", "fast"]
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "solver": "ddim",
        "num_inference_steps": 200,
        "guidance_scale": 7.5,
        "inversion": 500,
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
    "fast": {"guidance_scale": 1.0},  # and one of FAST
}
# What models that are made for few steps take, by a word in a name that tells of one.
FAST: Mapping[str, Mapping[str, Any]] = {
    "lcm": {"solver": "lcm", "num_inference_steps": 4},
    "tcd": {"solver": "tcd", "num_inference_steps": 4, "eta": 0.3},
    "turbo": {"solver": "ddim", "num_inference_steps": 4},
    "schnell": {"solver": "ddim", "num_inference_steps": 4},
    "lightning": {"solver": "ddim", "num_inference_steps": 4},
    "hyper": {"solver": "ddim", "num_inference_steps": 8},
}
WORD = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of a name: LCMScheduler is LCM and Scheduler
STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?", re.IGNORECASE)  # the steps that a name tells, as in 8steps
OWN_STEPS: Mapping[str, int] = {"z-image-turbo": 8}  # of models whose names do not tell them
# What pocket does best with, measured over the benchmark's pairs (docs/benchmarks.md); presets take precedence.
POCKET: Mapping[str, Any] = {"noise": (0.20, 0.20), "num_inference_steps": 25, "guidance_scale": 1.0}


def list_ineffective(settings: MorphSettings, names: Collection[str]) -> list[str]:
    """A line for each of the named settings that has another value than usual and changes nothing: which, and why."""
    usual = MorphSettings()
    changed = {name for name in names if getattr(settings, name) != getattr(usual, name)}
    found = [(sorted(idle & changed), why) for idle, is_idle, why in _IDLE if is_idle(settings)]
    return [f"{name} changes nothing {why}" for idle, why in found for name in idle]


def preset_settings(name: str, model: str | None = None, marks: Collection[str] = ()) -> Mapping[str, Any]:
    """The values that a preset sets for a model.

    Args:
        name: the preset's name.
        model: the model's name or folder; the embedded one if not given.
        marks: what else tells what the model was made for: its scheduler's class, its adapters' names.

    Raises:
        SegueError: the preset is unknown, or it is fast and nothing tells that the model is made for few steps.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise SegueError(f"unknown preset '{name}'; choose from {', '.join(PRESETS)}")
    own = _few_steps([*marks, PurePath(model or "pocket").name]) if name == "fast" else {}
    return {**(POCKET if model in (None, "pocket") else {}), **PRESETS[name], **own}


def with_preset(
    name: str, values: Mapping[str, Any], model: str | None = None, marks: Collection[str] = ()
) -> dict[str, Any]:
    """The values of a preset for a model under those that are given; without its candidates where none can be made."""
    preset = dict(preset_settings(name, model, marks))
    if values.get("scheme", "branching") != "branching" or values.get("candidates") == 1:
        for idle in ("candidates", "rank_for", "rank_against"):
            preset.pop(idle, None)
    if "solver" in values and "eta" not in values and values["solver"] != preset.get("solver"):
        preset.pop("eta", None)  # which belongs to the preset's solver
    return {**preset, **values}


def _few_steps(names: Sequence[str]) -> Mapping[str, Any]:
    """What a few-step model takes, by the first name that tells of one; as many steps as a name says, as in 8steps."""
    kinds = [kind for name in names for kind in FAST if kind in map(str.lower, WORD.findall(name))]
    if not kinds:
        raise SegueError(
            f"preset fast: no name of {names[-1]}, its adapters or scheduler tells of {', '.join(FAST)}; "
            "give solver, num_inference_steps and guidance_scale instead (an LCM LoRA takes lcm, 4 and 1)"
        )
    counts = [int(number) for name in names for number in STEPS.findall(name)]
    counts += [steps for name in names for model, steps in OWN_STEPS.items() if model in name.lower()]
    return dict(FAST[kinds[0]]) | ({"num_inference_steps": counts[0]} if counts else {})
