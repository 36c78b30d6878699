"""Token buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from homeserver.http.errors import MatrixError
from homeserver.http.ratelimit import LimitClass, RateLimiter
from homeserver.runtime.clock import TwistedClock


class RateLimiterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = Clock()
        self.limiter = self.build()

    def build(self, max_buckets: int = 100, *, enabled: bool = True) -> RateLimiter:
        classes = {"send": LimitClass(10, 3), "login": LimitClass(0.1, 1)}
        return RateLimiter(TwistedClock(self.time), classes, max_buckets=max_buckets, enabled=enabled)

    def test_burst_then_rate(self) -> None:
        self.assertEqual([self.limiter.take("send", "a") for _ in range(3)], [0.0, 0.0, 0.0])
        self.assertAlmostEqual(self.limiter.take("send", "a"), 0.1)
        self.time.advance(0.1)
        self.assertEqual(self.limiter.take("send", "a"), 0.0)
        self.assertGreater(self.limiter.take("send", "a"), 0)

    def test_keys_and_classes_are_apart(self) -> None:
        self.limiter.check("login", "a")
        self.limiter.check("login", "b")
        self.limiter.check("send", "a")
        with self.assertRaises(MatrixError) as raised:
            self.limiter.check("login", "a")
        error = raised.exception
        self.assertEqual((error.status, error.errcode), (429, "M_LIMIT_EXCEEDED"))
        self.assertEqual(error.extra["retry_after_ms"], 10_000)
        self.assertEqual(list(error.headers), [(b"Retry-After", b"10")])

    def test_who_waits_as_told_gets_through(self) -> None:
        self.limiter.check("login", "a")
        self.time.advance(self.limiter.take("login", "a"))
        self.limiter.check("login", "a")

    def test_refused_calls_cost_nothing(self) -> None:
        self.limiter.check("login", "a")
        for _ in range(50):
            self.assertGreater(self.limiter.take("login", "a"), 0)
        self.time.advance(10)
        self.limiter.check("login", "a")

    def test_several_at_once(self) -> None:
        self.assertEqual(0.0, self.limiter.take("send", "a", count=2))
        self.assertAlmostEqual(0.1, self.limiter.take("send", "a", count=2))
        self.assertEqual(0.0, self.limiter.take("send", "a", count=0))
        self.assertEqual(0.0, self.limiter.take("send", "a"))
        # More than there ever are: of a full bucket, and then none for as long as so many take.
        self.assertAlmostEqual(0.3, self.limiter.take("send", "a", count=10))
        self.time.advance(0.3)
        self.assertEqual(0.0, self.limiter.take("send", "a", count=10))
        self.assertAlmostEqual(0.8, self.limiter.take("send", "a"))

    def test_off_and_unknown(self) -> None:
        limiter = self.build(enabled=False)
        self.assertEqual({limiter.take("login", "a") for _ in range(9)}, {0.0})
        self.assertEqual({self.limiter.take("nonsense", "a") for _ in range(9)}, {0.0})
        limiter.reconfigure({"login": LimitClass(1, 1)}, enabled=True)
        self.assertEqual([limiter.take("login", "a") for _ in range(2)], [0.0, 1.0])

    def test_memory_is_bounded(self) -> None:
        limiter = self.build(max_buckets=50)
        for number in range(1000):
            limiter.take("login", str(number))
            self.assertLessEqual(len(limiter), 50)
        # The newest are still known.
        self.assertGreater(limiter.take("login", "999"), 0)

    def test_full_buckets_are_forgotten_first(self) -> None:
        limiter = self.build(max_buckets=50)
        limiter.take("login", "kept")
        for number in range(49):
            limiter.take("send", str(number))
        self.time.advance(1)
        for number in range(40):
            limiter.take("send", f"later {number}")
        self.assertGreater(limiter.take("login", "kept"), 0)

    def test_nonsense_classes_are_refused(self) -> None:
        for per_second, burst in ((0, 1), (-1, 1), (1, 0)):
            with self.assertRaises(ValueError):
                LimitClass(per_second, burst)

    @given(
        st.floats(min_value=0.01, max_value=100),
        st.integers(min_value=1, max_value=20),
        st.lists(st.floats(min_value=0, max_value=10), max_size=60),
    )
    def test_never_more_than_burst_plus_rate(
        self, per_second: float, burst: int, pauses: list[float]
    ) -> None:
        time = Clock()
        limiter = RateLimiter(TwistedClock(time), {"x": LimitClass(per_second, burst)})
        allowed = 0
        for pause in pauses:
            time.advance(pause)
            allowed += limiter.take("x", "k") == 0
        self.assertLessEqual(allowed, burst + per_second * time.seconds() + 1e-3)
