"""Units carried out by a Ray cluster: the only module that imports Ray, imported when a cluster is asked for.

Rules
- Weights never pass through Ray. Each node opens the model by its path; a job that is sent has paths and settings, and
  a result is one line.
- A node computes the key of the job from its own files and kernels before its first unit, so that another build of raq
  or another file is found before it can give another result.
- Few units more than the cluster has room for are submitted. Lines come back in any order; the journal does not mind.
- What is in progress ends with the executor: on Ctrl-C, on an error, and at the end.

Units of files are tasks, which Ray repeats on another worker where one dies. Units that need a model in memory go to
actors, each with one copy of it, which Ray starts again where one dies.
"""

import functools
import os
import platform
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Protocol, Self

import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raq_client.units.carry_out import Made
from raq_client.units.unit import Line, Unit, Work
from raq_solver.errors import Fault, InvalidInput

RETRIES: Final = 3
"""How often a unit whose worker died is given to another one."""
_AHEAD: Final = 2
"""Units submitted for each place where one runs, so that no worker waits for the next."""
_LOOK_SECONDS: Final = 1.0
"""Time between two looks at the size of the cluster."""
_STORE_BYTES: Final = 80 << 20
"""Object store of an instance of our own: hardly anything is in it."""
_OPTION: Final = "--cluster"

Ref = Any
"""A reference to a result of Ray."""


class RayExecutor:
    """Carries out units on a Ray cluster, with which it is connected as a context manager.

    `address` is `ray://HOST:PORT`; None: that in RAY_ADDRESS, the cluster running on this machine, or an instance that
    ends with the executor. A unit has `threads` cores (0: one, or for units with a model in memory all of a node), and
    with `gpu` a GPU. Raises InvalidInput if no cluster answers at the address, or it is not compatible.
    """

    def __init__(self, address: str | None = None, *, threads: int = 0, gpu: bool = False) -> None:
        self._address, self._threads, self._gpu = address, threads, gpu
        self._pool: tuple[str, _Pool] | None = None

    def __enter__(self) -> Self:
        _connect(self._address)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Ends the tasks and actors of this process on all nodes, also amid native code. (ray.cancel with force can
        # crash the process that calls it: seen in Ray 2.60, a failed check in task_manager.cc.)
        ray.shutdown()

    def __call__(self, job: Work, units: Sequence[Unit]) -> Made:
        """Carry out units. Raises InvalidInput if one fails, or if its worker dies again and again."""
        pool = self._pool_of(job)
        waiting, pending = list(reversed(units)), dict[Ref, Unit]()
        while waiting or pending:
            while waiting and pool.has_room(len(pending)):
                unit = waiting.pop()
                pending[pool.submit(unit)] = unit
            done, _ = ray.wait(list(pending), num_returns=1)
            for ref in done:
                unit = pending.pop(ref)
                pool.ended(ref)
                yield unit, _line_of(unit, ref)

    def _pool_of(self, job: Work) -> "_Pool":
        if self._pool is None or self._pool[0] != job.key:
            self._pool = None  # actors of an earlier job end with it, and free their cores
            made: _Pool = _Actors(job, self._threads) if job.loads_model else _Tasks(job, self._threads, gpu=self._gpu)
            self._pool = job.key, made
        return self._pool[1]


class _Pool(Protocol):
    """Where units of one job run."""

    def has_room(self, pending: int) -> bool:
        """Whether another unit can be submitted while this number is pending."""

    def submit(self, unit: Unit) -> Ref: ...

    def ended(self, ref: Ref) -> None: ...


class _Tasks:
    """Stateless units: any worker takes any of them. The cluster may grow and shrink meanwhile."""

    def __init__(self, job: Work, threads: int, *, gpu: bool) -> None:
        self._cores = max(1, threads)
        self._sent = ray.put(_packed(job, self._cores)), os.getcwd(), job.key  # noqa: PTH109 - sent as text
        wanted = {"num_cpus": self._cores, "max_retries": RETRIES, "num_gpus": int(gpu)}
        self._run = ray.remote(**wanted)(run_unit)
        self._places, self._looked = self._now(), time.monotonic()
        if not self._places:
            raise _too_small(self._cores)

    def has_room(self, pending: int) -> bool:
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._places, self._looked = self._now(), time.monotonic()
        return pending < _AHEAD * max(1, self._places)

    def _now(self) -> int:
        """The number of units that can run at a time."""
        return int(ray.cluster_resources().get("CPU", 0)) // self._cores

    def submit(self, unit: Unit) -> Ref:
        return self._run.remote(*self._sent, unit)

    def ended(self, ref: Ref) -> None:
        """A task leaves nothing behind."""


class _Actors:
    """Actors that keep the job open: one for each node, or as many as it has room for with `threads` cores each."""

    def __init__(self, job: Work, threads: int) -> None:
        made = ray.remote(max_restarts=RETRIES, max_task_retries=RETRIES)(_Holder)
        self._actors: list[tuple[Any, Any]] = []
        sent: dict[int, Any] = {}
        for node in ray.nodes():
            cores = int(node["Resources"].get("CPU", 0)) if node["Alive"] else 0
            each = threads or cores
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)  # elsewhere if the node is gone
            for _ in range(cores // each if each else 0):
                actor = made.options(num_cpus=each, scheduling_strategy=place).remote()
                sent[each] = sent.get(each) or ray.put(_packed(job, each))
                self._actors.append((actor, sent[each]))
        if not self._actors:
            raise _too_small(max(1, threads))
        self._known = os.getcwd(), job.key  # noqa: PTH109 - sent as text
        self._at: dict[Ref, int] = {}

    def has_room(self, pending: int) -> bool:
        return pending < _AHEAD * len(self._actors)

    def submit(self, unit: Unit) -> Ref:
        busy = list(self._at.values())
        number = min(range(len(self._actors)), key=busy.count)
        actor, packed = self._actors[number]
        ref = actor.run.remote(packed, *self._known, unit)
        self._at[ref] = number
        return ref

    def ended(self, ref: Ref) -> None:
        del self._at[ref]


Result = tuple[Line | None, Sequence[tuple[str, str]]]
"""The line of a unit, or the faults (where, what) for which there is none: errors of raq are not sent as exceptions."""


class _Holder:
    """An actor: a process of its own, in which `run_unit` keeps the opened job."""

    def run(self, packed: bytes, folder: str, key: str, unit: Unit) -> "Result":
        return run_unit(packed, folder, key, unit)


def run_unit(packed: bytes, folder: str, key: str, unit: Unit) -> Result:
    """Make a unit on a node, of the job with this key, packed as it is sent; relative paths are below `folder`."""
    try:
        return _opened(packed, folder, key).run(unit), ()
    except InvalidInput as error:
        return None, [(fault.where, f"{fault.what} (on {platform.node()})") for fault in error.faults]


@functools.lru_cache(maxsize=1)
def _opened(packed: bytes, folder: str, key: str) -> Work:
    """The job, opened once in each process. Raises InvalidInput if this node's files or kernels give another key."""
    with suppress(OSError):
        os.chdir(folder)  # where a node has no such folder, absolute paths are needed
    job: Work = cloudpickle.loads(packed)
    if job.key != key:
        what = "has another build of raq, or other files at these paths; all machines need the same"
        raise InvalidInput(Fault(platform.node(), what))
    return job


def _packed(job: Work, threads: int) -> bytes:
    sent: bytes = cloudpickle.dumps(job.unopened(threads))
    return sent


def _line_of(unit: Unit, ref: Ref) -> Line:
    try:
        line, faults = ray.get(ref)
    except RayTaskError as error:  # an error in raq itself: show it as if it had been raised here
        raise error.as_instanceof_cause() from None
    except RayError as error:
        what = f"its worker ended {RETRIES + 1} times before it was done; is there enough memory on every node?"
        raise InvalidInput(Fault(unit.name, f"{what} ({type(error).__name__})")) from error
    if line is None:
        raise InvalidInput(Fault(where, what) for where, what in faults)
    found: Line = line
    return found


def _connect(address: str | None) -> None:
    """Connect this process with a cluster, or start one for it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: Mapping[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    before = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings(action="ignore"):  # they say what the error below says
            try:
                ray.init(address=address or "auto", **quiet)
            except ConnectionError:
                if address is not None or "RAY_ADDRESS" in os.environ:
                    raise
                ray.init(address="local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        reason = str(error).strip().split("\n")[0]
        raise InvalidInput(Fault(_OPTION, f"no Ray cluster can be used at {where}: {reason}")) from error
    finally:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, before)  # Ray has put one of its own there


def _too_small(cores: int) -> InvalidInput:
    return InvalidInput(Fault(_OPTION, f"no node of the cluster has {cores} cores; give fewer --threads"))
