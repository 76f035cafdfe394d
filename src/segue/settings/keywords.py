"""The settings as typed keyword arguments, for editors; ``tests/test_keywords.py`` writes this file and compares it."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal, TypedDict

__all__ = ["FilmValues", "MorphValues"]


class MorphValues(TypedDict, total=False):
    """Keyword arguments that make frames: the fields of MorphSettings and ComputeSettings."""

    inversion: int
    inversion_learning_rate: float
    inversion_batch: int
    inversion_timesteps: Literal["all", "middle"]
    inversion_guidance: bool
    inversion_augment: bool
    inversion_negative: bool
    num_frames: int
    loop: bool
    scheme: Literal[
        "branching",
        "interpolate",
        "interpolate-denoise",
        "denoise-interpolate-denoise",
        "denoise-interpolate-denoise-unshared",
        "noise-diffusion",
        "diffmorpher",
    ]
    noise: float | Sequence[float]
    noise_shift: float
    branching: int
    bias: float
    retroactive: bool
    seed: int
    fit_model: int | None
    solver: Literal["dpm++", "ddim", "euler", "lcm", "tcd", "pipe"]
    num_inference_steps: int
    guidance_scale: float
    guidance_start: float
    guidance_end: float
    eta: float
    attention: Literal["none", "inner", "outer"]
    attention_share: float
    prompt: str | Sequence[str]
    negative_prompt: str
    prompt_at: Mapping[float, str]
    captioner: str | None
    embedding_blend: Literal["whole", "token", "linear"]
    image_prompt: float | None
    candidates: int
    rank_for: str | Sequence[str]
    rank_against: str | Sequence[str]
    ranker: str | None
    pose: str | PathLike[str]
    pose_detector: Literal["pocket", "blazepose", "rtmlib"] | None
    pose_matching: Literal["largest", "left-to-right", "nearest"]
    pose_hold: bool
    pose_via_photo: bool
    control_image: str | PathLike[str] | Sequence[str | PathLike[str]]
    control_scale: float
    control_flat: bool
    control_start: float
    control_end: float
    control_convention: Literal["controlnet1.0", "controlnet1.1", "thick"] | None
    size: str | None
    network_size: str | None
    fit: Literal["cover", "contain", "stretch"]
    background: str
    refine: int
    spacing: str
    max_distance: float
    zoom: float | Sequence[float]
    pan: tuple[float, float] | Sequence[tuple[float, float]]
    rotate: float | Sequence[float]
    colour_match: float
    align: bool
    points: str | PathLike[str]
    detail: float
    batch_size: int
    keep_candidates: bool


class FilmValues(TypedDict, total=False):
    """Keyword arguments that make a film of frames: the fields of FilmSettings."""

    fps: float
    seconds: float | None
    hold: float
    boomerang: bool
    easing: str
    smooth: Literal["none", "dissolve", "motion"]
    quality: int
