"""Token buckets by class and key: how often one user or address may do one kind of thing.

Memory is bounded: a bucket that has filled up again is the same as none, and such buckets are swept away; when more
than `max_buckets` are really in use, the oldest go (which errs on the side of letting somebody through).
spec: client-server-api#rate-limiting
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from homeserver.http.errors import limit_exceeded
from homeserver.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class LimitClass:
    """`per_second` calls on average, `burst` of them at once."""

    per_second: float
    burst: int

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.burst < 1:
            raise ValueError("a rate limit needs a positive rate and a burst of at least one")


class RateLimiter:
    """All buckets of one process. Classes that are not configured are not limited."""

    __slots__ = ("_buckets", "_classes", "_clock", "_enabled", "_max_buckets")

    def __init__(
        self,
        clock: Clock,
        classes: Mapping[str, LimitClass],
        *,
        enabled: bool = True,
        max_buckets: int = 100_000,
    ) -> None:
        self._clock = clock
        self._classes = dict(classes)
        self._enabled = enabled
        self._max_buckets = max_buckets
        # (class, key) -> the time at which the bucket is full again: one number says everything about a bucket.
        self._buckets: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def reconfigure(self, classes: Mapping[str, LimitClass], *, enabled: bool) -> None:
        """New classes and switch (configuration reload); buckets start full again."""
        self._classes = dict(classes)
        self._enabled = enabled
        self._buckets.clear()

    def check(self, limit: str, key: str, own: tuple[int, int] | None = None, count: int = 1) -> None:
        """Take so many tokens, or raise 429 with the time until there are as many.

        ``own``: what counts for whoever it is instead of the class, a second and at once.
        """
        wait_s = self.take(limit, key, None if own is None else LimitClass(*own), count)
        if wait_s > 0:
            raise limit_exceeded(max(1, int(wait_s * 1000)))

    def take(self, limit: str, key: str, own: LimitClass | None = None, count: int = 1) -> float:
        """Take so many tokens and return 0.0, or take nothing and return the seconds to wait.

        More than a bucket holds can be had of a full one: it is empty then until all of them would have come.
        """
        if not self._enabled or not count:
            return 0.0
        rule = self._classes.get(limit) if own is None else own
        if rule is None:
            return 0.0
        now = self._clock.monotonic()
        bucket = (limit, key)
        cost_s = 1.0 / rule.per_second
        full_at = max(self._buckets.get(bucket, now), now) + count * cost_s
        excess_s = full_at - now - max(rule.burst, count) * cost_s
        # Sums of the same binary fractions differ in the last bits; a nanosecond is nobody's advantage.
        if excess_s > 1e-9:
            return excess_s
        if bucket not in self._buckets and len(self._buckets) >= self._max_buckets:
            self._sweep(now)
        self._buckets[bucket] = full_at
        return 0.0

    def _sweep(self, now: float) -> None:
        """Drop the full buckets; if that leaves too many, the oldest tenth too, so that sweeps stay rare."""
        self._buckets = {bucket: full_at for bucket, full_at in self._buckets.items() if full_at > now}
        surplus = len(self._buckets) - self._max_buckets * 9 // 10
        if surplus > 0:
            for bucket in list(self._buckets)[:surplus]:
                del self._buckets[bucket]
