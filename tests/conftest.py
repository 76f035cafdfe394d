"""Every test runs offline, on one thread, without the libraries' progress bars."""

import gc
import logging
import os
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from notices import AsWarnings

from segue.method import align

torch.set_num_threads(1)

logging.getLogger("segue").addHandler(AsWarnings())


def pytest_collection_finish() -> None:
    """What was imported stays, so that no collection of garbage goes through it."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def coarse_alignment(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keyframes are aligned on few cells, which takes a third off a tiny film, but where ALIGNED_FINELY is set."""
    with pytest.MonkeyPatch.context() as patched:
        if not hasattr(request.module, "ALIGNED_FINELY"):
            patched.setattr(align, "CELLS", 8)
        yield
