"""Prometheus metrics. Each server has its own registry, so that several can run in one process."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_GAPS: Final = (0, 1e-9, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


class Metrics:
    """The metrics of a server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.calls = Histogram(
            "raq_call_seconds", "Time of a call", ("method", "code"), buckets=_SECONDS, registry=registry
        )
        self.running = Gauge("raq_calls_running", "Calls being answered", registry=registry)
        self.waiting = Gauge("raq_queue_waiting", "Calls waiting to be searched", registry=registry)
        self.queued = Histogram("raq_queue_seconds", "Wait for a search to begin", buckets=_SECONDS, registry=registry)
        self.busy = Gauge("raq_workers_busy", "Searches that run", registry=registry)
        self.restarts = Counter(
            "raq_worker_restarts", "Solving processes that were killed or crashed", registry=registry
        )
        self.cache = Counter("raq_cache", "Look-ups of answers", ("level", "result"), registry=registry)
        self.joined = Counter("raq_calls_joined", "Calls that shared the search of an equal request", registry=registry)
        self.solves = Histogram(
            "raq_solve_seconds", "Time of a search", ("termination",), buckets=_SECONDS, registry=registry
        )
        self.gap = Histogram("raq_solve_gap", "Relative gap of an answer", buckets=_GAPS, registry=registry)
        self.store_errors = Counter("raq_store_errors", "Failures of the store", registry=registry)
        self.refused = Counter("raq_refused", "Calls refused before they ran", ("reason",), registry=registry)
