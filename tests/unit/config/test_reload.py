"""A reload changes what is marked reloadable, and says what else waits."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from homeserver.config.load import parse_config
from homeserver.config.reload import merge_reloadable
from homeserver.config.schema import Config


def parse(text: str) -> Config:
    return parse_config(f"server_name: a.b\n{text}".encode(), {}, folder=Path("/srv"))


class ReloadTests(SynchronousTestCase):
    def test_reloadable_keys_are_taken_and_others_wait(self) -> None:
        running = parse("rate_limits: {login: {burst: 3}}\n")
        read = parse(
            "rate_limits: {login: {burst: 4}, enabled: false}\ncaches: {events_bytes: 2000000}\n"
            "federation: {deny_servers: [c.d], enabled: false}\nemail: {smtp_host: h, from: f@g.h}\n"
        )
        merged, changed, waiting = merge_reloadable(running, read)
        self.assertEqual(
            changed, ["federation.deny_servers", "rate_limits.enabled", "rate_limits.login.burst"]
        )
        self.assertEqual(waiting, ["federation.enabled", "caches.events_bytes", "email"])
        self.assertEqual(merged.rate_limits, read.rate_limits)
        self.assertEqual(merged.federation.deny_servers, ("c.d",))
        self.assertTrue(merged.federation.enabled)
        self.assertEqual(merged.caches, running.caches)
        self.assertIsNone(merged.email)

    def test_the_same_file_changes_nothing(self) -> None:
        running = parse("media: {max_upload_bytes: 5}\n")
        self.assertEqual(
            merge_reloadable(running, parse("media: {max_upload_bytes: 5}\n")), (running, [], [])
        )
