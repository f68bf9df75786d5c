"""The metrics of a server in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from basereward.serve.worker_pool import WorkerPool

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of latencies."""


class _Computed(Collector):
    """What the workers have computed; they count it themselves, because a client may go before its answer."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counter at this moment."""
        yield CounterMetricFamily(
            "basereward_computed",
            "Responses scored and texts written by the model, also for clients that have gone",
            value=sum(worker.computed for worker in self._pool.workers),
        )


class ServerMetrics:
    """Counts of requests and responses, latencies, and what waits.

    Args:
        pool: whose waiting requests are counted.
    """

    def __init__(self, pool: WorkerPool) -> None:
        # A registry of its own: two servers in one process, as in tests, would share the default one.
        self._registry = CollectorRegistry()
        self._registry.register(_Computed(pool))
        self._requests = Counter(
            "basereward_requests", "Requests by path and status", ["path", "status"], registry=self._registry
        )
        self._responses = Counter(
            "basereward_scored_responses", "Responses whose scores were sent", registry=self._registry
        )
        self._seconds = Histogram(
            "basereward_request_seconds", "Seconds of a request", ["path"], buckets=SECONDS, registry=self._registry
        )
        waiting = Gauge("basereward_waiting_requests", "Requests without an answer", registry=self._registry)
        waiting.set_function(lambda: sum(worker.waiting for worker in pool.workers))
        ready = Gauge("basereward_ready_workers", "Workers with an open model", registry=self._registry)
        ready.set_function(lambda: sum(worker.is_ready for worker in pool.workers))

    def request(self, path: str, *, status: int, seconds: float) -> None:
        """Counts an answered request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def scored(self, responses: int) -> None:
        """Counts responses whose scores are sent."""
        self._responses.inc(responses)

    def text(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self._registry)
