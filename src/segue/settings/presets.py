"""Values to begin with: presets, what the embedded model does best with, and what changes nothing beside the others."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from segue.errors import SegueError
from segue.settings.kinds import InversionSettings, MorphSettings

__all__ = ["POCKET", "PRESETS", "PRESET_HELP", "list_ineffective", "preset_settings", "with_preset"]

_POSES = {"pose_detector", "pose_matching", "pose_hold", "pose_via_photo"}
_CONTROL = {"control_scale", "control_flat", "control_start", "control_end", "control_convention"}
_DENOISING = {
    "noise",
    "solver",
    "num_inference_steps",
    "guidance_scale",
    "guidance_start",
    "guidance_end",
}
_INVERSION = {name for name in InversionSettings.model_fields if name != "inversion"}

# Settings that change nothing beside others: which, where, and in words.
_IDLE: Sequence[tuple[set[str], Callable[[MorphSettings], bool], str]] = (
    (_INVERSION, lambda s: not s.inversion, "without --inversion"),
    (_POSES | _CONTROL, lambda s: s.pose == "off" and not s.control_image, "with --pose off"),
    (_POSES | {"control_convention"}, lambda s: bool(s.control_image), "beside --control-image"),
    (_DENOISING, lambda s: s.scheme == "interpolate", "with --scheme interpolate, which denoises nothing"),
    ({"ranker"}, lambda s: not (s.rank_for or s.rank_against), "without --rank-for"),
    ({"bias"}, lambda s: s.align, "with --align, where frames are made straight from the keyframes"),
)

PRESET_HELP = "Values to begin with: draft for a first look, balanced (the default), or paper: slow, as published."
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
}
# What pocket does best with, measured over the benchmark's pairs (docs/benchmarks.md); presets take precedence.
POCKET: Mapping[str, Any] = {"noise": (0.20, 0.20), "num_inference_steps": 25, "guidance_scale": 1.0}


def list_ineffective(settings: MorphSettings, names: Collection[str]) -> list[str]:
    """A line for each of the named settings that has another value than usual and changes nothing: which, and why."""
    usual = MorphSettings()
    changed = {name for name in names if getattr(settings, name) != getattr(usual, name)}
    found = [(sorted(idle & changed), why) for idle, is_idle, why in _IDLE if is_idle(settings)]
    return [f"{name} changes nothing {why}" for idle, why in found for name in idle]


def preset_settings(name: str, model: str | None = None) -> Mapping[str, Any]:
    """The values that a preset sets for a model, the embedded one if not given; SegueError for an unknown preset."""
    if not isinstance(name, str) or name not in PRESETS:
        raise SegueError(f"unknown preset '{name}'; choose from {', '.join(PRESETS)}")
    return {**(POCKET if model in (None, "pocket") else {}), **PRESETS[name]}


def with_preset(name: str, values: Mapping[str, Any], model: str | None = None) -> dict[str, Any]:
    """The values of a preset for a model under those that are given; without its candidates where none can be made."""
    preset = dict(preset_settings(name, model))
    if values.get("scheme", "branching") != "branching" or values.get("candidates") == 1:
        for idle in ("candidates", "rank_for", "rank_against"):
            preset.pop(idle, None)
    return {**preset, **values}
