"""Measurements for Prometheus, behind a small facade that costs nothing where nobody looks.

Contract:
1. The registry is an object that is passed along; the library's global one is not used.
2. No label ever names a room, user, server or anything else that a stranger can make more of.
3. What is a size (caches, queues, lags) is read when somebody asks, not counted on the hot path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TURN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_BATCH_SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 500)


@dataclass(frozen=True, slots=True)
class CacheReading:
    """One cache at this moment."""

    size_bytes: int
    entries: int
    hits: int
    misses: int


class Metrics(Protocol):
    """What the server measures. `route` is a template with its placeholders, never a path."""

    def request(self, route: str, method: str, status: int, duration_s: float) -> None:
        """One request was answered."""

    def commit(self, events: int, duration_s: float) -> None:
        """One batch is on the disk."""

    def commit_failed(self) -> None:
        """One batch was rolled back."""

    def turn(self, duration_s: float) -> None:
        """The reactor was busy for so long without a pause."""

    def federation_request(self, direction: str, outcome: str) -> None:
        """One exchange with another server: `direction` is in or out, `outcome` a fixed word."""

    def watch(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Read a size whenever somebody asks. `name` is one of the gauges of `GAUGES`."""

    def watch_cache(self, name: str, read: Callable[[], CacheReading]) -> None:
        """The same for a cache."""

    def exposition(self) -> tuple[bytes, str]:
        """The page for the metrics listener, and its content type."""


# name -> (help, label names): all sizes that may be watched.
GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "pipeline_depth": ("Placements that wait for the committer.", ()),
    "open_requests": ("Requests being answered.", ()),
    "connections": ("Open client connections.", ()),
    "waiting_syncs": ("Long polls that wait for news.", ()),
    "active_rooms": ("Rooms that have an actor.", ()),
    "inbox_items": ("Items in the inboxes of all rooms.", ()),
    "staged_events": ("Received events that wait for others.", ()),
    "follower_lag": ("Positions that a follower is behind.", ("follower",)),
    "destinations": ("Other servers, by the state of the link.", ("state",)),
    "appservices_down": ("Application services that do not answer.", ()),
    "pushers": ("Pushers, by whether their gateway answers.", ("state",)),
    "stream_position": ("The latest position.", ()),
    "reader_queue": ("Units of work that wait for a reader.", ()),
    "database_bytes": ("Size of the database, and of its write-ahead log.", ("file",)),
}


class PrometheusMetrics:
    """The real thing, on a registry of its own."""

    __slots__ = (
        "_batches", "_commit_failures", "_commits", "_federation", "_readings", "_registry", "_request_children",
        "_requests", "_turns",
    )  # fmt: skip

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._requests = Histogram(
            "chaos_request_seconds",
            "Time to answer a request.",
            ("route", "method", "status"),
            buckets=_SECONDS,
            registry=registry,
        )
        # Looking a child up by its labels costs more than counting; routes x methods x statuses are few.
        self._request_children: dict[tuple[str, str, int], Histogram] = {}
        self._commits = Histogram(
            "chaos_commit_seconds", "Time to commit a batch.", buckets=_SECONDS, registry=registry
        )
        self._batches = Histogram(
            "chaos_commit_events", "Events in a batch.", buckets=_BATCH_SIZES, registry=registry
        )
        self._commit_failures = Counter(
            "chaos_commit_failures", "Batches that were rolled back.", registry=registry
        )
        self._turns = Histogram(
            "chaos_turn_seconds",
            "Time that the reactor was busy at a stretch.",
            buckets=_TURN_SECONDS,
            registry=registry,
        )
        self._federation = Counter(
            "chaos_federation_requests",
            "Exchanges with other servers.",
            ("direction", "outcome"),
            registry=registry,
        )
        self._readings = _Readings()
        registry.register(self._readings)

    def request(self, route: str, method: str, status: int, duration_s: float) -> None:
        key = (route, method, status)
        child = self._request_children.get(key)
        if child is None:
            child = self._request_children[key] = self._requests.labels(route, method, str(status))
        child.observe(duration_s)

    def commit(self, events: int, duration_s: float) -> None:
        self._commits.observe(duration_s)
        self._batches.observe(events)

    def commit_failed(self) -> None:
        self._commit_failures.inc()

    def turn(self, duration_s: float) -> None:
        self._turns.observe(duration_s)

    def federation_request(self, direction: str, outcome: str) -> None:
        self._federation.labels(direction, outcome).inc()

    def watch(self, name: str, read: Callable[[], float], **labels: str) -> None:
        self._readings.add_gauge(name, labels, read)

    def watch_cache(self, name: str, read: Callable[[], CacheReading]) -> None:
        self._readings.caches[name] = read

    def exposition(self) -> tuple[bytes, str]:
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class NullMetrics:
    """Measures nothing: for tests, the simulator and commands."""

    __slots__ = ()

    def request(self, route: str, method: str, status: int, duration_s: float) -> None:
        pass

    def commit(self, events: int, duration_s: float) -> None:
        pass

    def commit_failed(self) -> None:
        pass

    def turn(self, duration_s: float) -> None:
        pass

    def federation_request(self, direction: str, outcome: str) -> None:
        pass

    def watch(self, name: str, read: Callable[[], float], **labels: str) -> None:
        pass

    def watch_cache(self, name: str, read: Callable[[], CacheReading]) -> None:
        pass

    def exposition(self) -> tuple[bytes, str]:
        return b"", CONTENT_TYPE_LATEST


def make_metrics() -> PrometheusMetrics:
    """Metrics on a new registry that also tells of the process, the interpreter and its garbage collector."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return PrometheusMetrics(registry)


class _Readings(Collector):
    """Sizes, read when Prometheus asks."""

    def __init__(self) -> None:
        self.gauges: dict[str, dict[tuple[str, ...], Callable[[], float]]] = {}
        self.caches: dict[str, Callable[[], CacheReading]] = {}

    def add_gauge(self, name: str, labels: Mapping[str, str], read: Callable[[], float]) -> None:
        _, label_names = GAUGES[name]
        if set(labels) != set(label_names):
            raise ValueError(f"the gauge {name} has the labels {label_names}, not {tuple(labels)}")
        values = tuple(labels[label] for label in label_names)
        self.gauges.setdefault(name, {})[values] = read

    def collect(self) -> Iterable[Metric]:
        for name, readings in self.gauges.items():
            text, label_names = GAUGES[name]
            family = GaugeMetricFamily(f"chaos_{name}", text, labels=label_names)
            for values, read in readings.items():
                family.add_metric(values, read())
            yield family
        taken = {name: read() for name, read in self.caches.items()}
        sizes = GaugeMetricFamily("chaos_cache_bytes", "Memory of a cache.", labels=("cache",))
        entries = GaugeMetricFamily("chaos_cache_entries", "Entries of a cache.", labels=("cache",))
        looks = CounterMetricFamily("chaos_cache_lookups", "Look-ups in a cache.", labels=("cache", "result"))
        for name, reading in taken.items():
            sizes.add_metric((name,), reading.size_bytes)
            entries.add_metric((name,), reading.entries)
            looks.add_metric((name, "hit"), reading.hits)
            looks.add_metric((name, "miss"), reading.misses)
        yield from (sizes, entries, looks)
