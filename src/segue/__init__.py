"""Segue makes the images between two images, with latent diffusion models.

from segue import Interpolator

interpolator = Interpolator.from_pretrained()
morph = interpolator("cat.png", "tiger.png", num_frames=17, seed=0)
morph.save("morph.mp4")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segue.errors import Notice, SegueError

if TYPE_CHECKING:
    from segue.engine.bar import Bar
    from segue.engine.dialogue import AcceptRest, Again, Candidates, Pick, Progress
    from segue.engine.interpolator import Interpolator
    from segue.film.morph import Morph
    from segue.method.tree import FrameKey
    from segue.run.journal import Edit
    from segue.settings.kinds import ComputeSettings, FilmSettings, InversionSettings, MorphSettings

    __version__: str

__all__ = [
    "AcceptRest",
    "Again",
    "Bar",
    "Candidates",
    "ComputeSettings",
    "Edit",
    "FilmSettings",
    "FrameKey",
    "Interpolator",
    "InversionSettings",
    "Morph",
    "MorphSettings",
    "Notice",
    "Pick",
    "Progress",
    "SegueError",
    "__version__",
]

# What is imported when it is first asked for, so that the command line answers before torch is loaded.
_HOMES = {
    **dict.fromkeys(("AcceptRest", "Again", "Candidates", "Pick", "Progress"), "engine.dialogue"),
    "Bar": "engine.bar",
    "Edit": "run.journal",
    "Interpolator": "engine.interpolator",
    "Morph": "film.morph",
    **dict.fromkeys(("ComputeSettings", "FilmSettings", "InversionSettings", "MorphSettings"), "settings.kinds"),
    "FrameKey": "method.tree",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("segue")
    if name not in _HOMES:
        raise AttributeError(f"module 'segue' has no attribute '{name}'")
    return getattr(import_module(f"segue.{_HOMES[name]}"), name)
