"""Progress as a bar, in a terminal or a notebook."""

import sys

from tqdm.auto import tqdm

from segue.engine.dialogue import Progress
from segue.errors import Notice

__all__ = ["Bar", "is_notebook"]


class Bar:
    """A callback that shows the denoising steps as a bar of tqdm: ``interpolator(a, b, callback=Bar())``.

    In a notebook it is what shows progress when no callback is given.
    """

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None
        self._stage = ""

    def __call__(self, progress: Progress | Notice) -> None:
        """Show where the work is, and what to know."""
        if progress.text:
            tqdm.write(progress.text)
        if isinstance(progress, Notice) or not progress.steps:
            return
        if self._bar is None or progress.stage != self._stage:
            self._close()
            self._bar, self._stage = tqdm(total=progress.steps, desc=progress.stage, unit="step"), progress.stage
        if progress.total:
            self._bar.set_postfix_str(f"{progress.frames} of {progress.total} frames", refresh=False)
        self._bar.total = progress.steps
        self._bar.update(progress.step - self._bar.n)
        if progress.step >= progress.steps and progress.frames >= progress.total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def is_notebook() -> bool:
    """Whether this runs in a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config
