"""Rows to workers: each takes the next one when it is free; a row whose failure may pass is tried again."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from segue.batch.notes import Notes, Outcome
from segue.batch.pool import Event, WorkerPool
from segue.batch.rows import Row
from segue.batch.work import Order, Result
from segue.errors import SegueError

__all__ = ["ATTEMPTS", "Status", "drive"]

ATTEMPTS = 3  # at a row, where the cause of its failure may pass; and at starting a worker
TICK = 0.5  # seconds between two looks at the clock
PAUSE = 2.0  # seconds before a row is tried again whose folder is in use, as by a worker that is about to die


@dataclass(frozen=True)
class Status:
    """Where the batch is; handed to the callback after each event.

    Attributes:
        event: "begin", "start", "frame", "made", "failed", "again" (with the reason), "word".
        row: the row that it is about; text: the reason or the word.
        rows, kept, made, failed: how many there are of each; running: the rows being made.
        frames: finished frames, without the keyframes; frames_per_minute, left: their speed, and seconds that are left.
        seconds: since the batch began.
    """

    event: str
    row: str = ""
    text: str = ""
    rows: int = 0
    kept: int = 0
    made: int = 0
    failed: int = 0
    running: tuple[str, ...] = ()
    frames: int = 0
    frames_per_minute: float = 0.0
    left: float | None = None
    seconds: float = 0.0


Callback = Callable[[Status], None]


@dataclass
class _Job:
    """A row that is not through yet."""

    order: Order
    attempts: int = 0
    after: float = 0.0  # a time before which it is not tried again


def drive(
    rows: Sequence[Row],
    outcomes: list[Outcome],
    pool: WorkerPool,
    *,
    overwrite: bool = False,
    notes: Notes | None = None,
    callback: Callback = lambda _status: None,
) -> list[Outcome]:
    """Have a pool of workers make all rows.

    Args:
        rows: what is to be made.
        outcomes: of the rows that were made before; those of the others are added as they come.
        pool: the workers.
        overwrite: begin rows anew whose folders hold runs with other settings.
        notes: keeps what each row was made of.
        callback: is handed a Status after each event.

    Raises:
        SegueError: no worker can load the model.
    """
    state = _State(rows, outcomes, overwrite, pool, notes)
    callback(state.status("begin"))
    while not state.is_done:
        for worker in sorted(state.free):
            job = state.next_job()
            if job is None:
                break
            if status := state.find_fault(job):
                callback(status)
                continue
            state.free.discard(worker)
            state.running[worker] = job
            job.attempts += 1
            pool.hand(worker, job.order)
            callback(state.status("start", job))
        for event in pool.events(TICK):
            for status in state.take(event):
                callback(status)
    return state.outcomes


class _State:
    """Which rows wait, run and are through; which workers can be had, and which are free."""

    def __init__(
        self, rows: Sequence[Row], outcomes: list[Outcome], overwrite: bool, pool: WorkerPool, notes: Notes | None
    ) -> None:
        self.pool, self.notes = pool, notes
        self.waiting = deque(_Job(Order(row, overwrite)) for row in rows)
        self.running: dict[int, _Job] = {}
        self.free: set[int] = set()
        self.outcomes = outcomes
        self.count, self.kept = len(rows) + len(outcomes), len(outcomes)
        self.expected = {row.name: _frames(row) for row in rows}
        self.begun = time.monotonic()
        self.first: float | None = None  # when the first worker was ready
        self.frames = 0
        self.lost_loading: Counter[int] = Counter()

    @property
    def is_done(self) -> bool:
        return not self.waiting and not self.running

    def next_job(self) -> _Job | None:
        """The next row that may be tried now."""
        now = time.monotonic()
        for job in self.waiting:
            if job.after <= now:
                self.waiting.remove(job)
                return job
        return None

    def find_fault(self, job: _Job) -> Status | None:
        """The failure of a row whose files cannot be read any more; None if it can be made."""
        try:
            if self.notes:
                self.notes.begin(job.order.row)
        except OSError as error:
            job.attempts += 1
            return self.settle(job, Result(reason=f"{error.filename}: {error.strerror}"))
        return None

    def take(self, event: Event) -> Iterator[Status]:
        """What an event changes."""
        job = self.running.get(event.worker)
        if event.kind == "unfit":
            self.retire(event.worker, event.text)
        elif event.kind == "ready":
            self.first = self.first or time.monotonic()
            self.free.add(event.worker)
            self.lost_loading[event.worker] = 0
        elif event.kind == "frame":
            self.frames += 1
            yield self.status("frame", job)
        elif event.kind == "word":
            yield self.status("word", job, event.text)
        elif event.kind == "lost":
            loading = job is None and event.worker not in self.free
            self.free.discard(event.worker)
            self.running.pop(event.worker, None)
            if job is not None:
                yield self.settle(job, Result(reason=f"its worker was lost ({event.text})", cause="lost"))
            elif loading:
                self.lost_loading[event.worker] += 1
                if self.lost_loading[event.worker] >= ATTEMPTS:
                    self.retire(event.worker, f"workers are lost while they load the model ({event.text})")
        elif event.kind == "result" and job is not None and event.result is not None:
            del self.running[event.worker]
            self.free.add(event.worker)
            yield self.settle(job, event.result)

    def retire(self, worker: int, reason: str) -> None:
        """Do without a worker; SegueError with the reason where it was the last one."""
        if self.pool.count <= 1:
            raise SegueError(reason)
        self.pool.retire(worker)

    def settle(self, job: _Job, result: Result) -> Status:
        """A row is made, or tried again, or failed."""
        row = job.order.row
        if not result.reason and self.notes:
            try:
                self.notes.finish(row, result)
            except SegueError as error:
                result = replace(result, reason=str(error))
            except OSError as error:
                result = replace(result, reason=f"{error.filename}: {error.strerror}")
        if not result.reason:
            self.outcomes.append(Outcome(row.name, "made", result.frames, result.seconds, job.attempts))
            return self.status("made", job)
        if result.cause and job.attempts < ATTEMPTS:
            if result.cause == "memory":
                job.order = replace(job.order, batch_size=max(1, result.batch_size // 2))
            if result.cause == "in use":
                job.after = time.monotonic() + PAUSE
            self.waiting.appendleft(job)
            return self.status("again", job, result.reason)
        self.outcomes.append(Outcome(row.name, "failed", 0, result.seconds, job.attempts, result.reason))
        return self.status("failed", job, result.reason)

    def status(self, event: str, job: _Job | None = None, text: str = "") -> Status:
        """Where the batch is."""
        now = time.monotonic()
        states = [outcome.state for outcome in self.outcomes]
        rate = self.frames / (now - self.first) if self.first is not None and self.frames else 0.0
        through = {outcome.name for outcome in self.outcomes}
        remaining = sum(frames for name, frames in self.expected.items() if name not in through)
        return Status(
            event=event,
            row=job.order.row.name if job else "",
            text=text,
            rows=self.count,
            kept=self.kept,
            made=states.count("made"),
            failed=states.count("failed"),
            running=tuple(running.order.row.name for running in self.running.values()),
            frames=self.frames,
            frames_per_minute=60 * rate,
            left=remaining / rate if rate else None,
            seconds=now - self.begun,
        )


def _frames(row: Row) -> int:
    """Frames to make for a row, at most; without the keyframes."""
    settings = row.settings
    gaps = len(row.images) - 1 + settings.loop
    return (settings.steps - 1) * gaps
