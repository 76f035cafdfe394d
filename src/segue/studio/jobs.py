"""The one queue of the studio: films are made one after the other, and only so many may wait.

A job can be paused between two denoising steps and goes on there; a stopped one is continued from the run folder. A
paused job gives way (as if it were stopped) when another one waits.
"""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from segue.engine.dialogue import Progress
from segue.errors import Notice, SegueError, hearing

__all__ = ["Job", "Queue", "Report", "Stopped"]

State = Literal["waiting", "running", "paused", "done", "failed", "stopped"]
Report = Callable[[Progress | Notice], None]
Work = Callable[[Report], None]


class Stopped(Exception):  # noqa: N818 - no error: the user asked for it
    """Raised in the middle of the work when its user stops it."""


@dataclass
class Job:
    """One piece of work and where it is.

    Attributes:
        owner: the visitor.
        title: what it does, in words.
        work: does it; is handed the progress callback.
        film: the name of the run that it is for.
        state: where it is in its life; message: how it ended.
        progress: the last one.
    """

    owner: str
    title: str
    work: Work
    film: str = ""
    state: State = "waiting"
    message: str = ""
    progress: Progress | None = None
    begun: float = 0.0
    _go: threading.Event = field(default_factory=threading.Event)
    _stop: bool = False

    def __post_init__(self) -> None:
        self._go.set()

    @property
    def is_open(self) -> bool:
        """Whether it is still to end."""
        return self.state in ("waiting", "running", "paused")

    def pause(self) -> None:
        """Hold at the next step."""
        if self.state == "running":
            self._go.clear()
            self.state = "paused"

    def resume(self) -> None:
        """Go on where it was held."""
        if self.state == "paused":
            self.state = "running"
            self._go.set()

    def stop(self) -> None:
        """End at the next step; what is finished stays."""
        self._stop = True
        if self.state == "waiting":
            self.state, self.message = "stopped", "Stopped before it began."
        self._go.set()


class Queue:
    """Does jobs one at a time, in order.

    Args:
        most: how many may wait.
    """

    def __init__(self, most: int = 8) -> None:
        self.most = most
        self._jobs: deque[Job] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, job: Job) -> None:
        """Let a job wait for its turn; raises SegueError if too many wait, or its owner has one that is not ended."""
        with self._wake:
            self.check(job.owner)
            waiting = [other for other in self._jobs if other.is_open]
            if len(waiting) > self.most:
                raise SegueError(f"{len(waiting)} films are waiting already; try again in a few minutes")
            self._jobs = deque([*waiting, job])
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="segue-studio")
                self._thread.start()
            self._wake.notify_all()

    def check(self, owner: str) -> None:
        """Refuse another job of an owner whose last one is not ended."""
        with self._wake:
            if any(other.owner == owner and other.is_open for other in self._jobs):
                raise SegueError("your last film is still being made; stop it or wait until it is done")

    def place(self, job: Job) -> int:
        """How many jobs are before this one."""
        with self._wake:
            before = [other for other in self._jobs if other.is_open]
            return before.index(job) if job in before else 0

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: any(job.state == "waiting" for job in self._jobs))
                job = next(job for job in self._jobs if job.state == "waiting")
                job.state, job.begun = "running", time.monotonic()
            self._do(job)
            with self._wake:
                self._jobs = deque(other for other in self._jobs if other.is_open)

    def _do(self, job: Job) -> None:
        """Do one job to whatever end."""
        found: list[str] = []

        def report(told: Progress | Notice) -> None:
            if isinstance(told, Notice):
                found.append(told.text)
            else:
                self._report(job, told)

        try:
            with hearing(report):
                job.work(report)
        except Stopped:
            job.message = job.message or "Stopped. Continue resumes it."
            job.state = "stopped"
        except SegueError as error:
            job.message = " ".join(str(error).split())
            job.state = "failed"
        except BaseException as error:  # whatever it is, the page says it and the server lives on
            traceback.print_exception(error, file=sys.stderr)
            job.message = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no more is known'}"
            job.state = "failed"
        else:
            job.message = "; ".join(dict.fromkeys(found))
            job.state = "done"

    def _report(self, job: Job, progress: Progress) -> None:
        """Keep the progress; hold a paused job, end a stopped one."""
        job.progress = progress
        while not job._go.wait(0.2):
            if any(other.state == "waiting" for other in list(self._jobs)):
                job.message = "Other films were waiting, so the paused one was stopped. Continue resumes it."
                raise Stopped
        if job._stop:
            raise Stopped
