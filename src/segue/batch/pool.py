"""Workers that are processes of this machine; each loads the model once and takes a row when it is free.

A worker that dies, by whatever signal, is noticed by the end of its pipe and replaced; a driver that dies takes its
workers with it.
"""

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Literal, Protocol

from segue.settings.kinds import ModelSettings

if TYPE_CHECKING:
    from segue.batch.work import Order, Result

__all__ = ["Event", "ProcessPool", "WorkerPool", "threads_of"]

Kind = Literal["ready", "unfit", "frame", "word", "result", "lost"]


@dataclass(frozen=True)
class Event:
    """What a worker says, or what happened to it.

    Attributes:
        worker: its number.
        kind: it is ready; it cannot load the model; it finished a frame; it has a word for the user; it is through
            with its row; it is lost, and another one takes its number.
        text: the word, or the reason.
        result: what became of the row.
    """

    worker: int
    kind: Kind
    text: str = ""
    result: "Result | None" = None


class WorkerPool(Protocol):
    """Workers, by number from 0."""

    @property
    def count(self) -> int:
        """How many there are."""

    def hand(self, worker: int, order: "Order") -> None:
        """Give a row to a worker that is ready."""

    def events(self, seconds: float) -> list[Event]:
        """What happened; waits so long for the first event."""

    def retire(self, worker: int) -> None:
        """Do without a worker from now on."""

    def close(self) -> None:
        """End all workers."""


class ProcessPool:
    """Workers that are processes of this machine."""

    def __init__(self, models: Sequence[ModelSettings], threads: int) -> None:
        """Start a worker for each model.

        Args:
            models: what each worker loads.
            threads: of the CPU, for each worker.
        """
        _keep_standard_streams()
        self._models, self._threads = models, threads
        self._workers: dict[int, tuple[SpawnProcess, Connection]] = {}
        for worker in range(len(models)):
            self._start(worker)

    @property
    def count(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    @property
    def pids(self) -> list[int]:
        """The process of each worker."""
        return [process.pid or 0 for process, _ in self._workers.values()]

    def hand(self, worker: int, order: "Order") -> None:
        """Give a row to a worker that is ready."""
        with suppress(OSError):  # it has died: its end will be read
            self._workers[worker][1].send(order)

    def events(self, seconds: float) -> list[Event]:
        """What happened; waits so long for the first event."""
        numbers = {connection: worker for worker, (_, connection) in self._workers.items()}
        found = []
        for connection in wait(list(numbers), seconds):
            assert isinstance(connection, Connection)
            worker = numbers[connection]
            try:
                found.append(connection.recv())
            except (EOFError, OSError):
                found.append(Event(worker, "lost", self._end(worker)))
                self._start(worker)
        return found

    def retire(self, worker: int) -> None:
        """Do without a worker from now on."""
        if worker in self._workers:
            self._end(worker)
            del self._workers[worker]

    def close(self) -> None:
        """End all workers; whatever they had finished is on disk."""
        for worker in self._workers:
            self._end(worker)

    def _start(self, worker: int) -> None:
        context = mp.get_context("spawn")
        mine, its = context.Pipe()
        process = context.Process(target=_serve, args=(its, worker, self._models[worker], self._threads), daemon=True)
        process.start()
        its.close()
        self._workers[worker] = (process, mine)

    def _end(self, worker: int) -> str:
        """Kill a worker if it lives; how it ended."""
        process, connection = self._workers[worker]
        connection.close()
        process.join(1)
        process.kill()
        process.join()
        code = process.exitcode or 0
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def threads_of(cpus: int, workers: int) -> int:
    """Threads for each worker: an equal share, or what OMP_NUM_THREADS says.

    Sums of floating-point numbers depend on the threads: films are equal to the byte with as many of them.
    """
    own = os.environ.get("OMP_NUM_THREADS", "")
    return int(own) if own.isdecimal() and int(own) else max(1, cpus // workers)


def _serve(connection: Connection, worker: int, model: ModelSettings, threads: int) -> None:
    """A worker: load the model, then make row after row."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business
    threading.Thread(target=_end_with_driver, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)

    from segue.batch.work import Loaded
    from segue.errors import SegueError

    def say(kind: Kind, text: str = "", result: "Result | None" = None) -> None:
        try:
            connection.send(Event(worker, kind, text, result))
        except OSError:  # the driver listens no more: it was interrupted
            os._exit(1)

    try:
        loaded = Loaded.load(model, threads)
    except SegueError as error:
        say("unfit", " ".join(str(error).split()))
        return
    say("ready")
    while True:
        try:
            order = connection.recv()
        except (EOFError, OSError):
            return
        say("result", result=loaded.make(order, frame=lambda: say("frame"), say=lambda text: say("word", text)))


def _end_with_driver() -> None:
    """End this process as soon as the driver is gone: what is finished is on disk, and the lock comes free."""
    driver = mp.parent_process()
    if driver is not None:
        wait([driver.sentinel])
        os._exit(1)


def _keep_standard_streams() -> None:
    """Open the standard streams that are closed, so that no pipe gets their numbers and is closed in a worker."""
    number = os.open(os.devnull, os.O_RDWR)
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
