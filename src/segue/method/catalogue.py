"""All schemes by name: the paper's five, and those that were published since."""

from collections.abc import Callable, Mapping

from segue.errors import SegueError
from segue.method.diffmorpher import diffmorpher
from segue.method.noise_diffusion import noise_diffusion
from segue.method.schemes import (
    Scheme,
    Task,
    branching,
    denoise_interpolate_denoise,
    denoise_interpolate_denoise_unshared,
    interpolate,
    interpolate_denoise,
)

__all__ = ["find_scheme"]


def find_scheme(name: str) -> Callable[[Task], Scheme]:
    """The scheme of that name; raises SegueError for an unknown one."""
    if name not in _BY_NAME:
        raise SegueError(f"unknown scheme '{name}'; choose from {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


_BY_NAME: Mapping[str, Callable[[Task], Scheme]] = {
    "branching": branching,
    "interpolate": interpolate,
    "interpolate-denoise": interpolate_denoise,
    "denoise-interpolate-denoise": denoise_interpolate_denoise,
    "denoise-interpolate-denoise-unshared": denoise_interpolate_denoise_unshared,
    "noise-diffusion": noise_diffusion,
    "diffmorpher": diffmorpher,
}
