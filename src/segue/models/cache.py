"""What lies in the hub's local cache, which needs no network.

The cache has a folder models--OWNER--NAME for each checkpoint, in it refs/main with the name of the newest version (and
refs/BRANCH), and the files of that in snapshots/VERSION. It is read here without the hub's library, which takes a while
to import.
"""

from pathlib import Path

from huggingface_hub import constants

from segue.errors import SegueError
from segue.models import checkpoints as models
from segue.models.checkpoints import CONFIG, INDEX, KNOWN, Known, check, check_variant

__all__ = ["cached", "on_disk"]


def on_disk() -> list[tuple[Known, bool]]:
    """The known checkpoints, and others in the local cache that can be used; and whether each is on disk."""
    folders = sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*"))
    names = [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]
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


def cached(name: str, kind: str, *, variant: str | None = None, revision: str | None = None) -> Path | None:
    """The folder of a hub name in the local cache, where all that is needed is there.

    Args:
        name: the hub name.
        kind: "model" or "controlnet".
        variant: of the weights.
        revision: a branch, a tag or the whole name of a commit; main if not given.
    """
    checkpoint = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    try:
        ref, snapshots = checkpoint / "refs" / (revision or "main"), checkpoint / "snapshots"
        folder = snapshots / (ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision or "main")
        if not (folder / (INDEX if kind == "model" else CONFIG)).is_file():
            return None
        check(kind)(folder, name)
        if variant:
            check_variant(folder, name, variant)
    except (OSError, SegueError):
        return None
    return folder
