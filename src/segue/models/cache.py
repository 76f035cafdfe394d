"""What lies in the hub's local cache, which needs no network.

The cache has a folder models--OWNER--NAME for each checkpoint, in it refs/main with the name of the newest version (and
refs/BRANCH), and the files of that in snapshots/VERSION. It is read here without the hub's library, which takes a while
to import.
"""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from huggingface_hub import constants

from segue.errors import SegueError
from segue.models import checkpoints as models
from segue.models.checkpoints import CONFIG, INDEX, KNOWN, Known, check_variant, checker_of, resolve_name
from segue.models.header import adapter_names

__all__ = ["find_cached", "list_models", "marks_of"]


def list_models() -> list[tuple[Known, bool]]:
    """The known checkpoints, and others in the local cache that can be used; and whether each is on disk."""
    folders = sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*"))
    names = [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]
    known = {model.name for model in KNOWN}
    others = [
        Known(name, kind, "in the local cache")
        for name in names
        for kind in ("model", "controlnet")
        if name not in known and find_cached(name, kind)
    ]
    return [(model, _is_there(model)) for model in KNOWN] + [(other, True) for other in others]


def marks_of(name_or_path: str | PathLike[str] | None, loras: Sequence[Path] = ()) -> list[str]:
    """What a checkpoint on disk tells, before it is loaded, of what it was made for: its scheduler's class, its LoRAs.

    That is the ``marks`` of a backbone; nothing is told by what is not on disk or cannot be read.
    """
    names = adapter_names(loras)
    try:
        found = resolve_name(name_or_path)
        if isinstance(found, str):
            found = find_cached(found, "model") or Path(found)
        return [str(json.loads((found / INDEX).read_text(encoding="utf-8"))["scheduler"][1]), *names]
    except (OSError, ValueError, LookupError, TypeError):  # the check of the model says what is wrong
        return names


def _is_there(model: Known) -> bool:
    """Whether a known checkpoint can be used without a network."""
    if model.name == "pocket":
        return (models.pocket_folder() / INDEX).exists()
    return find_cached(model.name, model.kind) is not None


def find_cached(name: str, kind: str, *, variant: str | None = None, revision: str | None = None) -> Path | None:
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
        checker_of(kind)(folder, name)
        if variant:
            check_variant(folder, name, variant)
    except (OSError, SegueError):
        return None
    return folder
