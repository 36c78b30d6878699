"""The metrics facade and its page."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from homeserver.runtime.metrics import CacheReading, Metrics, NullMetrics, make_metrics


class MetricsTests(SynchronousTestCase):
    def page(self, metrics: Metrics) -> dict[str, float]:
        body, content_type = metrics.exposition()
        self.assertTrue(content_type.startswith("text/plain"))
        pairs = [line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    def test_everything_appears_on_the_page(self) -> None:
        metrics: Metrics = make_metrics()
        metrics.request("/_matrix/client/v3/sync", "GET", 200, 0.003)
        metrics.request("/_matrix/client/v3/sync", "GET", 200, 0.3)
        metrics.commit(50, 0.002)
        metrics.commit_failed()
        metrics.turn(0.06)
        metrics.federation_request("out", "failed")
        depth = [3.0]
        metrics.watch("pipeline_depth", lambda: depth[0])
        metrics.watch("follower_lag", lambda: 7.0, follower="push")
        metrics.watch_cache("events", lambda: CacheReading(size_bytes=100, entries=2, hits=30, misses=4))
        depth[0] = 5.0
        page = self.page(metrics)
        expected = {
            'chaos_request_seconds_count{method="GET",route="/_matrix/client/v3/sync",status="200"}': 2,
            'chaos_request_seconds_bucket{le="0.005",method="GET",route="/_matrix/client/v3/sync",status="200"}': 1,
            "chaos_commit_events_sum": 50,
            "chaos_commit_seconds_count": 1,
            "chaos_commit_failures_total": 1,
            'chaos_turn_seconds_bucket{le="0.05"}': 0,
            'chaos_turn_seconds_bucket{le="0.1"}': 1,
            'chaos_federation_requests_total{direction="out",outcome="failed"}': 1,
            "chaos_pipeline_depth": 5,
            'chaos_follower_lag{follower="push"}': 7,
            'chaos_cache_bytes{cache="events"}': 100,
            'chaos_cache_lookups_total{cache="events",result="hit"}': 30,
        }
        self.assertEqual({name: page.get(name) for name in expected}, expected)
        self.assertIn("process_resident_memory_bytes", page)

    def test_two_servers_in_one_process_do_not_share_numbers(self) -> None:
        first, second = make_metrics(), make_metrics()
        first.commit_failed()
        self.assertEqual(self.page(second)["chaos_commit_failures_total"], 0)

    def test_gauges_that_nobody_declared_are_refused(self) -> None:
        metrics = make_metrics()
        with self.assertRaises(KeyError):
            metrics.watch("something_new", lambda: 0.0)
        with self.assertRaises(ValueError):
            metrics.watch("pipeline_depth", lambda: 0.0, room="!a")

    def test_the_fake_takes_it_all_and_says_nothing(self) -> None:
        metrics: Metrics = NullMetrics()
        metrics.request("/", "GET", 200, 1.0)
        metrics.commit(1, 1.0)
        metrics.watch_cache("x", lambda: CacheReading(0, 0, 0, 0))
        self.assertEqual(metrics.exposition()[0], b"")
