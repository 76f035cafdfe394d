"""Workers that are actors on Ray, on this machine or on a cluster; one for each GPU, or for a share of the CPUs.

An actor that is lost, with its process or its machine, is noticed by its call and replaced by a new one, which Ray
places if there is room. An actor that sees the output's folder works there; one that does not is sent what it
needs and sends back what it made.
"""

import logging
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.batch.pool import Event, threads_of
from segue.errors import SegueError
from segue.settings.kinds import ModelSettings

if TYPE_CHECKING:
    from segue.batch.work import Order

__all__ = ["LOCAL", "ActorPool", "share_of"]

LOCAL = "local"  # the address that starts Ray on this machine


class ActorPool:
    """Workers that are actors on Ray."""

    def __init__(self, model: ModelSettings, workers: int | None, address: str, rows: int, output: Path) -> None:
        """Start Ray, or join a cluster, and start the workers.

        Args:
            model: what each worker loads.
            workers: how many; one for each GPU of the cluster, else one for each machine, if not given.
            address: "local", or that of a cluster.
            rows: how many rows there are; more workers than these are not started.
            output: the folder of all films; it holds a token by which a worker finds out whether it sees it.

        Raises:
            SegueError: Ray is not installed, or there is no cluster at the address.
        """
        self._ray = ray = _import_ray()
        _join(ray, address)
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus, cpus = ([float(machine.get(kind, 0)) for machine in machines] for kind in ("GPU", "CPU"))
        gpus = [0.0] if model.device not in (None, "cuda") else gpus
        count = min(workers or int(sum(gpus)) or len(machines), rows)
        if any(gpus):
            self._options = {"num_gpus": min(1.0, share_of(gpus, count)), "num_cpus": 0}
            self._threads = threads_of(int(sum(cpus)), count)
        else:
            share = share_of(cpus, count)
            self._options = {"num_cpus": share}
            self._threads = threads_of(int(share * count), count)
        self._model = model
        self._token = output.absolute() / f".token.{secrets.token_hex(4)}.part"
        self._token.touch()
        from ray.util.queue import Queue

        self._inbox = Queue(actor_options={"num_cpus": 0})
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}  # what each worker is busy with, by Ray's reference
        self._apart: set[int] = set()
        self._unsent: list[Event] = []
        for worker in range(count):
            self._start(worker)

    @property
    def count(self) -> int:
        """How many workers there are."""
        return len(self._actors)

    @property
    def pids(self) -> list[int]:
        """The process of each worker, where they are on this machine."""
        return [self._ray.get(actor.pid.remote()) for actor in self._actors.values()]

    def is_apart(self, worker: int) -> bool:
        """Whether a worker does not see the output's folder."""
        return worker in self._apart

    def hand(self, worker: int, order: "Order") -> None:
        """Give a row to a worker that is ready."""
        if self.is_apart(worker):
            from segue.batch.archive import pack
            from segue.batch.work import result_of

            try:
                order = pack(order)
            except OSError as error:
                self._unsent.append(Event(worker, "result", result=result_of(error, order.row, 0.0)))
                return
        self._calls[self._actors[worker].make.remote(order)] = worker

    def events(self, seconds: float) -> list[Event]:
        """What happened; waits so long for the first call that ends."""
        found, self._unsent = self._unsent, []
        if not self._calls and not found:  # all are idle: Ray would not wait
            time.sleep(seconds)
            return []
        ended, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=0 if found else seconds)
        size = self._inbox.qsize()
        found += self._inbox.get_nowait_batch(size) if size else []
        for call in ended:
            worker = self._calls.pop(call)
            try:
                event: Event = self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                event = Event(worker, "lost", _reason(error))
                self._ray.kill(self._actors[worker])
                self._start(worker)
            if event.kind == "ready":
                (self._apart.add if event.text == "apart" else self._apart.discard)(worker)
            found.append(event)
        return found

    def retire(self, worker: int) -> None:
        """Do without a worker from now on."""
        if worker in self._actors:
            self._ray.kill(self._actors.pop(worker))
            self._calls = {call: number for call, number in self._calls.items() if number != worker}

    def close(self) -> None:
        """End all workers, and Ray where it was started here."""
        self._token.unlink(missing_ok=True)
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._ray.shutdown()

    def _start(self, worker: int) -> None:
        actor = self._ray.remote(**self._options)(_Actor).remote(worker, self._inbox)
        self._actors[worker] = actor
        self._calls[actor.load.remote(self._model, self._threads, self._token)] = worker


class _Actor:
    """A worker on whatever machine Ray has placed it."""

    def __init__(self, worker: int, inbox: Any) -> None:
        self.worker, self.inbox = worker, inbox
        self.loaded: Any = None
        self.is_apart = False

    def pid(self) -> int:
        return os.getpid()

    def load(self, model: ModelSettings, threads: int, token: Path) -> Event:
        """Load the model; say whether the output's folder is seen from here."""
        from segue.batch.work import Loaded

        self.is_apart = not token.exists()
        try:
            self.loaded = Loaded.load(model, threads)
        except SegueError as error:
            return Event(self.worker, "unfit", " ".join(str(error).split()))
        return Event(self.worker, "ready", "apart" if self.is_apart else "")

    def make(self, order: "Order") -> Event:
        """Make a row."""
        from segue.batch.archive import make_apart

        make = make_apart if order.archive is not None else type(self.loaded).make
        result = make(
            self.loaded,
            order,
            frame=lambda: self._tell(Event(self.worker, "frame")),
            say=lambda text: self._tell(Event(self.worker, "word", text)),
        )
        return Event(self.worker, "result", result=result)

    def _tell(self, event: Event) -> None:
        """Put an event into the inbox, without waiting until it is there."""
        self.inbox.actor.put_nowait.remote(event)


def _import_ray() -> Any:
    """Ray, without its reports of usage."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise SegueError("--ray needs the package ray; install it with: pip install 'segue[cluster]'") from error
    return ray


def _join(ray: Any, address: str) -> None:
    """Start Ray on this machine, reachable from it only, or join a cluster."""
    own = {"_node_ip_address": "127.0.0.1"} if address == LOCAL else {}
    if address == LOCAL:  # else its workers stand behind all other programs of the machine, and are a fifth slower
        os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == LOCAL else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **own,
        )
    except Exception as error:  # ConnectionError, ValueError, RuntimeError, gRPC's own, by the kind of address
        raise SegueError(
            f"--ray {address}: no Ray can be reached there: {' '.join(str(error).split())[:200]}"
        ) from error


def share_of(machines: Sequence[float], count: int) -> float:
    """The most of a resource that each of ``count`` workers can have, each within one of the machines.

    As Ray takes it: a whole number from 1, below that in thousandths.
    """

    def fits(share: float) -> bool:
        return sum(int(there / share + 1e-9) for there in machines) >= count

    shares = [there / k for there in machines if there > 0 for k in range(1, count + 1)]
    share = max(filter(fits, shares), default=0.0)
    return float(int(share)) if share >= 1 else int(share * 1000) / 1000


def _reason(error: Exception) -> str:
    """Ray's account of a lost worker, in its first sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
