"""Where things lie, and how data sets and checkpoints are read and written.

Everything that a stage makes lies in `.cache/pocket` (or in the folder that `SEGUE_POCKET` names): data sets as
`.npy` beside a `.json` of captions, checkpoints as `STAGE.pt`, logs as `STAGE.csv`. Only `export` writes elsewhere.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["CACHE", "MODEL", "ROOT", "command", "load_array", "load_checkpoint", "save_checkpoint"]

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("SEGUE_POCKET", ROOT / ".cache" / "pocket"))
MODEL = ROOT / "src" / "segue" / "models" / "pocket"


def command(doc: str | None) -> argparse.ArgumentParser:
    """A stage's command line."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def load_array(name: str) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """A data set: pictures (N, 128, 128, 4), RGBA with straight alpha, mapped from disk, and one record for each."""
    pictures = np.load(CACHE / f"{name}.npy", mmap_mode="r")
    return pictures, json.loads((CACHE / f"{name}.json").read_text())


def save_checkpoint(stage: str, state: dict[str, Any]) -> None:
    """Writes `STAGE.pt`; a reader or a crash never sees half a file."""
    path = CACHE / f"{stage}.pt"
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_checkpoint(stage: str) -> dict[str, Any] | None:
    """The last checkpoint of a stage, or None before its first one."""
    path = CACHE / f"{stage}.pt"
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
