"""Networks of transformers by folder or hub name: read from the disk where they lie there, else from the hub."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError

from segue.errors import SegueError
from segue.models.loading import quiet

__all__ = ["read"]

Loaded = TypeVar("Loaded")

CONFIG = "config.json"


def read(source: str, what: str, load: Callable[[bool], Loaded]) -> Loaded:
    """Load networks; a folder, or what is whole in the local cache, without a word to the hub.

    Args:
        source: a folder or a hub name.
        what: what it should be, as messages name it: "a CLIP".
        load: loads it; is told whether it may only read what is on disk.

    Raises:
        SegueError: it is not there, it is something else, or its weights are not in safetensors.
    """
    try:
        with quiet():
            if Path(source).is_dir():
                return load(True)
            if isinstance(try_to_load_from_cache(source, CONFIG), str):
                try:
                    return load(True)
                except (OSError, ValueError):  # a part of it is missing
                    return load(False)
            _ask(source, what)
            return load(False)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unreadable(source, what, error) from error


def _ask(name: str, what: str) -> None:
    """Ask the hub for one small file: where it does not answer, it is not asked for the others."""
    try:
        hf_hub_download(name, CONFIG)
    except LocalEntryNotFoundError as error:
        raise SegueError(f"{name} ({what}) is not on disk, and the hub cannot be reached") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no answer")
        raise SegueError(f"{name} ({what}) cannot be downloaded from the hub ({status}); check the name") from error


def _unreadable(source: str, what: str, error: Exception) -> SegueError:
    """The one line for what cannot be loaded."""
    if isinstance(error, SegueError):
        return error
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        if pickled:
            return SegueError(f"{folder / pickled[0]} is a pickle, which can run code; weights must be .safetensors")
        return SegueError(f"{source} has no .safetensors weights of {what}")
    if source.startswith((".", "/", "~")) and not folder.exists():
        return SegueError(f"{source} does not exist; give {what} by its folder or hub name")
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return SegueError(f"{source} cannot be loaded as {what} with safetensors weights: {reason}")
