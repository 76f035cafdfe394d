"""What lies in the hub's local cache, which needs no network."""

from pathlib import Path

from huggingface_hub import constants, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound

from segue import models
from segue.errors import SegueError
from segue.models import CONFIG, INDEX, KNOWN, Known, check

__all__ = ["cached", "on_disk"]


def on_disk() -> list[tuple[Known, bool]]:
    """The known checkpoints, and others in the local cache that can be used; and whether each is on disk."""
    try:
        names = sorted(
            repo.repo_id for repo in scan_cache_dir(constants.HF_HUB_CACHE).repos if repo.repo_type == "model"
        )
    except (CacheNotFound, OSError):
        names = []
    known = {model.name for model in KNOWN}
    others = [
        Known(name, kind, "in the local cache")
        for name in names
        for kind in ("model", "controlnet")
        if name not in known and cached(name, kind)
    ]
    return [(model, _is_there(model)) for model in KNOWN] + [(other, True) for other in others]


def _is_there(model: Known) -> bool:
    """Whether a known checkpoint can be used without a network."""
    if model.name == "pocket":
        return (models.pocket_folder() / INDEX).exists()
    return cached(model.name, model.kind) is not None


def cached(name: str, kind: str) -> Path | None:
    """The folder of a hub name in the local cache, where all that is needed is there."""
    found = try_to_load_from_cache(name, INDEX if kind == "model" else CONFIG)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    try:
        check(kind)(folder, name)
    except SegueError:
        return None
    return folder
