"""The choice of where media are, and its secret."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock as TaskClock
from twisted.trial.unittest import SynchronousTestCase

from homeserver.cli.operations import Finding
from homeserver.composition.storing import examine_storage, open_bucket
from homeserver.config.load import ConfigError, build_config
from homeserver.config.schema import Config
from homeserver.media.bucket_store import OWNER_KEY
from homeserver.runtime.clock import TwistedClock
from tests.support.bucket import SECRET, BucketHttp, FakeBucket, Reply, error, s3_settings

FOLDER = Path("/srv/chaos")
WHOLE = {"bucket": "some-bucket", "access_key_id": "AK", "secret_access_key": "hush-hush"}


class Settings(SynchronousTestCase):
    def build(self, **media: Any) -> Config:
        return build_config({"server_name": "chat.example.org", "media": media}, {}, folder=FOLDER)

    def problems(self, **media: Any) -> list[str]:
        with self.assertRaises(ConfigError) as caught:
            self.build(**media)
        self.assertNotIn("hush", str(caught.exception))
        return caught.exception.problems

    def test_defaults(self) -> None:
        self.assertEqual(("file_system", None), (self.build().media.storage, self.build().media.s3))
        found = self.build(storage="s3", s3=WHOLE).media.s3
        assert found is not None
        self.assertEqual("https://s3.us-east-1.amazonaws.com", found.base_url)
        self.assertNotIn("hush", repr(self.build(storage="s3", s3=WHOLE)))

    def test_what_is_wrong(self) -> None:
        self.assertEqual(["media.s3: required where media.storage is s3"], self.problems(storage="s3"))
        self.assertEqual(["media.s3: given, but media.storage is not s3"], self.problems(s3=WHOLE))
        either = ["media.s3: either secret_access_key or secret_access_key_file is required"]
        self.assertEqual(either, self.problems(storage="s3", s3={**WHOLE, "secret_access_key_file": "x"}))
        without = {key: value for key, value in WHOLE.items() if key != "secret_access_key"}
        self.assertEqual(either, self.problems(storage="s3", s3=without))
        for key, values in {
            "bucket": ("", "a", "a/b", "a b", "-ab", "x" * 64),
            "prefix": ("/", "/a", "../a", "a//b", "a b", "a/../b", "a?b", "é"),
            "endpoint": ("", "s3.example.org", "ftp://x", "https://u:p@x", "https://x/?a=b"),
            "region": ("", "eu/1", "a b", "a,b"),
            "access_key_id": ("", "a/b", "a b", "a\n"),
            "addressing": ("host",),
            "cache_bytes": (0, -1, "1"),
        }.items():
            for value in values:
                (problem,) = self.problems(storage="s3", s3={**WHOLE, key: value})
                self.assertTrue(problem.startswith(f"media.s3.{key}: "), problem)
        (problem,) = self.problems(storage="s3", s3={**WHOLE, "secret_access_key": ["hush"]})
        self.assertTrue(problem.startswith("media.s3.secret_access_key: "), problem)


class Examined(SynchronousTestCase):
    """`chaos doctor`."""

    def setUp(self) -> None:
        self.time = TaskClock()
        self.fake = FakeBucket(self.time.seconds)
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.config = Config(server_name="chat.example.org", data_dir=folder)
        self.use()

    def use(self, **changes: Any) -> None:
        media = replace(self.config.media, storage="s3", s3=s3_settings(**changes))
        self.config = replace(self.config, media=media)

    def examine(self) -> list[Finding]:
        clock = TwistedClock(self.time)
        work = examine_storage(self.config, BucketHttp(self.fake), maybeDeferred, clock)
        waiting = Deferred.fromCoroutine(work)
        for _ in range(10):
            self.time.advance(1)
        return self.successResultOf(waiting)

    def expect(self, level: str, text: str) -> None:
        (found,) = self.examine()
        self.assertEqual((level, "media"), (found.level, found.subject))
        self.assertIn(text, found.detail)
        self.assertNotIn(SECRET, found.detail)

    def test_no_bucket(self) -> None:
        self.config = Config(server_name="chat.example.org", data_dir=self.config.data_dir)
        self.assertEqual([], self.examine())

    def test_fine(self) -> None:
        self.expect("ok", "bucket chaos-media at http://s3.test.example:9000 can be written, read and listed")
        self.assertEqual({}, self.fake.objects)

    def test_wrong(self) -> None:
        self.use(secret_access_key="other")
        self.expect("error", "the secret access key is wrong")
        self.use(bucket="other")
        self.expect("error", "there is no such bucket")
        self.use()
        self.fake.objects[f"chat/media/{OWNER_KEY}"] = (b"other.example", 0.0)
        self.expect("error", "'other.example' keeps its media there")
        self.fake.objects.clear()
        for method in ("PUT", "DELETE"):
            self.fake.script = lambda call, method=method: (  # type: ignore[misc]
                error(403, "AccessDenied") if call.method == method else None
            )
            self.expect("error", "the access key may not do this")
        self.fake.script = lambda call: error(403, "AccessDenied") if "list-type" in call.query else None
        self.expect("error", "the access key may not do this")
        self.fake.script = lambda call: Reply(200, b"else") if call.path.endswith("doctor") else None
        self.expect("error", "does not give back what was put there")
        self.fake.script = lambda _: error(503, "SlowDown")
        self.expect("error", "busy or broken (status 503)")

    def test_files_that_are_left_behind(self) -> None:
        (self.config.data_dir / "media" / "files" / "ab").mkdir(parents=True)
        found = self.examine()
        self.assertEqual(["warning", "ok"], [one.level for one in found])
        self.assertIn("copy them to the bucket", found[0].detail)

    def test_the_secret_in_a_file(self) -> None:
        path = self.config.data_dir / "secret"
        self.use(secret_access_key=None, secret_access_key_file=path)
        self.expect("error", "media.s3.secret_access_key_file: ")
        for bad in (b"", b"\n", b"\xff", b"two\nlines", b"x" * 5000):
            path.write_bytes(bad)
            self.expect("error", "does not hold one secret alone")
        path.write_text(f"{SECRET}\n")
        self.expect("ok", "can be written")
        settings = self.config.media.s3
        assert settings is not None
        bucket = open_bucket(settings, BucketHttp(self.fake), maybeDeferred, TwistedClock(self.time))
        self.assertEqual(SECRET, bucket._credentials.secret_access_key)
