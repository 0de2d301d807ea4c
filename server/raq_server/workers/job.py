"""A job: one request to the solver, with what its handler may use."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from google.protobuf.descriptor import MethodDescriptor

from raq_proto.convert import profile_from_proto
from raq_proto.errors import UnknownProfile
from raq_proto.v1 import problem_pb2, profile_pb2
from raq_server.limits import RequestLimits
from raq_server.store.database import Database
from raq_server.telemetry.metrics import Metrics
from raq_solver.profile import Profile

LARGE: Final = 2**20
"""Bytes of a request or stored profile from which on it is handled in a process: reading 1 MiB of numbers keeps
Python's interpreter lock, and with it the event loop, for about 10 ms."""
_PROFILES_KEPT: Final = 8


class Cancelled(Exception):
    """Nobody waits for this job any more."""


class ProfileCache:
    """The stored profiles used last, shared by all threads. Only small ones, so that it needs little memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: OrderedDict[str, Profile] = OrderedDict()
        self._lock = threading.Lock()

    def content(self, digest: str) -> bytes:
        """The message of a stored profile. Raises UnknownProfile and ServiceUnavailable."""
        content = self._database.profile(digest)
        if content is None:
            raise UnknownProfile.of(digest)
        return content

    def get(self, digest: str) -> Profile | None:
        """A small stored profile; None if it is large. Raises UnknownProfile and ServiceUnavailable."""
        with self._lock:
            found = self._kept.get(digest)
            if found is not None:
                self._kept.move_to_end(digest)
        if found is not None and self._database.use_profile(digest):
            return found
        known = self._database.profile_info(digest)  # also where a profile that was kept has been deleted
        if known is None:
            raise UnknownProfile.of(digest)
        if known.size_bytes >= LARGE:
            return None
        found = profile_from_proto(profile_pb2.Profile.FromString(self.content(digest)))
        with self._lock:
            self._kept[digest] = found
            while len(self._kept) > _PROFILES_KEPT:
                self._kept.popitem(last=False)
        return found


class Job:
    """One request: what to answer, until when, and whether anybody still waits. Used by one thread at a time."""

    def __init__(
        self,
        method: MethodDescriptor,
        request: bytes,
        deadline: float | None,
        limits: RequestLimits,
        profiles: ProfileCache,
        metrics: Metrics,
        client: str = "",
        *,
        alone: bool = True,
    ) -> None:
        self.client, self.alone = client, alone
        """Who asks, and whether there is nobody else to leave a worker to."""
        self.method = method.name
        self.single = not method.server_streaming
        """There is exactly one answer."""
        self.request = request
        self.deadline = deadline
        """On `time.monotonic`; None: the caller waits without limit."""
        self.limits = limits
        self.profiles = profiles
        self.lock = threading.Lock()
        """Held while a thread works on the job."""
        self.ended = False
        """All answers were given."""
        self.process_id: int | None = None
        """The process that solves it, if one does."""
        self._metrics = metrics
        self._cancelled = threading.Event()
        self._profile: Profile | None = None
        self._end: Callable[[], None] | None = None

    def names_large_profile(self, problem: problem_pb2.Problem) -> bool:
        """Whether a problem names a stored profile that is large. Raises UnknownProfile and ServiceUnavailable."""
        if problem.profile.WhichOneof("profile") != "digest":
            return False
        self._profile = self.profiles.get(problem.profile.digest)
        return self._profile is None

    def profile(self, _digest: str) -> Profile:
        """The profile that `names_large_profile` has found to be small; a request names at most one."""
        assert self._profile is not None
        return self._profile

    def observe(self, termination: str, seconds: float, gap: float | None) -> None:
        """Count a finished search."""
        self._metrics.solves.labels(termination).observe(seconds)
        if gap is not None:
            self._metrics.gap.observe(gap)

    def check(self) -> None:
        """Raises Cancelled once the job is cancelled. Searches call it about 50 times a second."""
        if self._cancelled.is_set():
            raise Cancelled

    def cancel(self) -> None:
        """End the job: its search at the next `check`, its process at once. May be called from any thread, again."""
        self._cancelled.set()
        if self._end is not None:
            self._end()

    def on_cancel(self, end: Callable[[], None]) -> None:
        """Have `end` called when the job is cancelled, or now if it is."""
        self._end = end
        if self._cancelled.is_set():
            end()

    def killed(self) -> None:
        """Count a process that was killed or crashed."""
        self._metrics.restarts.inc()
