"""Uploads over the API. spec: client-server-api#content-repository"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Coroutine
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from homeserver.config.schema import RateLimit, RateLimits
from homeserver.http.errors import ClientGone, MatrixError
from homeserver.http.response import Response
from homeserver.media.files import Spool
from homeserver.media.sweep import ORPHAN_AGE_S
from homeserver.store.media import load_media
from homeserver.store.users import deactivate_account, set_standing
from tests.api.media import (
    CREATE,
    DOWNLOAD,
    OLD,
    OLD_THUMBNAIL,
    THUMBNAIL,
    UPLOAD,
    Arriving,
    MediaCase,
    in_a_bucket_too,
)
from tests.support.app import SERVER_NAME, TestApp, test_config
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.http import Answer, Query

T = TypeVar("T")


@on_each_database
@in_a_bucket_too
class Uploads(MediaCase):
    def test_up_and_down(self) -> None:
        for size in (0, 1, 65_536, 131_072, 131_073, 262_144, 999_999, 1_000_000):
            data = os.urandom(size)
            answer = self.get(self.upload(data, "application/pdf"))
            self.assertEqual((200, str(size)), (answer.status, answer.headers["content-length"]))
            self.assertEqual(data, answer.body)
            self.assertEqual("application/pdf", answer.headers["content-type"])
        self.assertEqual([], self.stored("incoming"))

    def test_the_same_file_is_kept_once(self) -> None:
        one, other = self.upload(b"same"), self.upload(b"same", "text/plain")
        self.assertNotEqual(one, other)
        self.assertEqual([sha256(b"same").hexdigest()], self.stored())
        self.assertEqual("text/plain", self.get(other).headers["content-type"])
        self.assertEqual("image/png", self.get(one).headers["content-type"])

    def test_a_restart_loses_nothing(self) -> None:
        address = self.upload(b"keep me", name="a.png")
        self.app.restart()
        self.assertEqual(b"keep me", self.get(address).body)

    def test_who_and_what(self) -> None:
        self.refused(self.app.answer("POST", UPLOAD, b"x"), 401, "M_MISSING_TOKEN")
        self.refused(self.post(b"x" * 1_000_001), 413, "M_TOO_LARGE")
        said = self.app.answer("POST", UPLOAD, b"x", self.alice, None, {"Content-Length": "1000001"})
        self.refused(said, 413, "M_TOO_LARGE")
        self.refused(self.post(b"x", query={"filename": "n" * 1025}), 400, "M_INVALID_PARAM")
        self.assertEqual(([], []), (self.stored(), self.stored("incoming")))
        self.configure(max_upload_bytes=2_000_000)
        self.assertEqual(200, self.post(b"x" * 1_000_001).status)

    def test_config(self) -> None:
        for path in (
            "/_matrix/client/v1/media/config",
            "/_matrix/media/v3/config",
            "/_matrix/media/r0/config",
        ):
            self.assertEqual({"m.upload.size": 1_000_000}, self.app.ok("GET", path, None, self.alice))
            self.refused(self.app.answer("GET", path), 401, "M_MISSING_TOKEN")

    def test_older_paths(self) -> None:
        for version in ("r0", "v1"):
            answer = self.app.answer("POST", f"/_matrix/media/{version}/upload", b"old", self.alice)
            address = answer.json["content_uri"].removeprefix("mxc://")
            found = self.app.answer("GET", f"/_matrix/media/{version}/download/{address}/x.bin")
            self.assertEqual((200, b"old"), (found.status, found.body))

    def test_content_types(self) -> None:
        for given_type, expected in (
            (None, "application/octet-stream"),
            ("", "application/octet-stream"),
            ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
            ("nonsense", "application/octet-stream"),
            ("text/html\x7f", "application/octet-stream"),
            ("text/plain; é", "application/octet-stream"),
            ("a/" + "b" * 200, "application/octet-stream"),
        ):
            found = self.get(self.upload(b"x", given_type))
            self.assertEqual(expected, found.headers["content-type"], given_type)

    def test_a_disk_that_is_full(self) -> None:
        folder = self.folder
        folder.mkdir(parents=True)
        (folder / "incoming").write_text("in the way")
        answer = self.post(b"x")
        self.refused(answer, 503, "M_UNKNOWN")
        self.assertEqual(["a file could not be stored"], self.app.log.events("error"))
        self.app.log.entries.clear()

    def test_whatever_it_is_called(self) -> None:
        names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)

        @settings(max_examples=60, deadline=None, database=None)
        @given(names, names)
        def check(name: str, content_type: str) -> None:
            headers = {"Content-Type": content_type}
            answer = self.app.answer("POST", UPLOAD, b"x", self.alice, {"filename": name}, headers)
            self.assertEqual(200, answer.status)
            found = self.get(answer.json["content_uri"].removeprefix("mxc://"))
            self.assertEqual(200, found.status)
            self.assertTrue(found.headers["content-disposition"].isascii())

        check()


@in_a_bucket_too
class Streams(MediaCase):
    """Uploads that take their time, and those that never end."""

    def begin(self, method: str = "POST", path: str = UPLOAD) -> tuple[Arriving, Deferred[Response]]:
        request = self.app.http.request(method, path, b"", self.alice)
        body = Arriving()
        request.body_stream = body  # type: ignore[assignment]
        answer = self.app.app.router.dispatch(request)
        assert isinstance(answer, Deferred)
        return body, answer

    def test_written_while_it_comes(self) -> None:
        body, answer = self.begin()
        for number in range(5):
            body.asked.callback(bytes([number]) * 150_000)
        (name,) = self.stored("incoming")
        self.assertEqual(600_000, (self.folder / "incoming" / name).stat().st_size)
        body.asked.callback(None)
        self.assertEqual(200, self.app.wait(answer).status)
        self.assertEqual(([], 1), (self.stored("incoming"), len(self.stored())))

    def test_broken_off(self) -> None:
        for error, status in ((ClientGone(), 503), (MatrixError(408, "M_UNKNOWN", "slow"), 408)):
            body, answer = self.begin()
            body.asked.callback(b"x" * 300_000)
            self.assertEqual(1, len(self.stored("incoming")))
            body.asked.errback(error)
            self.assertEqual(status, self.app.wait(answer).status)
            self.assertEqual(([], []), (self.stored("incoming"), self.stored()))

    def test_too_much_without_having_said_so(self) -> None:
        body, answer = self.begin()
        for _ in range(3):
            body.asked.callback(b"x" * 300_000)
        body.asked.callback(b"x" * 100_001)
        self.assertEqual(413, self.app.wait(answer).status)
        self.assertEqual(([], []), (self.stored("incoming"), self.stored()))

    def test_the_disk_is_full_in_the_middle(self) -> None:
        def fail(spool: Spool, pieces: object) -> None:
            raise OSError(28, "No space left on device")

        self.patch(Spool, "write", fail)
        body, answer = self.begin()
        body.asked.callback(b"x" * 300_000)
        self.assertEqual(503, self.app.wait(answer).status)
        self.assertEqual([], self.stored("incoming"))
        self.assertEqual(["a file could not be stored"], self.app.log.events("error"))
        self.app.log.entries.clear()

    def test_two_fill_one_address(self) -> None:
        address = self.create()
        one, first = self.begin("PUT", f"{UPLOAD}/{address}")
        other, second = self.begin("PUT", f"{UPLOAD}/{address}")
        for body, data in ((other, b"other"), (one, b"one")):
            body.asked.callback(data)
            body.asked.callback(None)
        self.assertEqual((409, 200), (self.app.wait(first).status, self.app.wait(second).status))
        self.assertEqual(b"other", self.get(address).body)

    def test_side_by_side_within_one_quota(self) -> None:
        self.configure(user_quota_bytes=500_000)
        begun = [self.begin() for _ in range(4)]
        for body, _ in begun:
            body.asked.callback(b"x" * 200_000)
            body.asked.callback(None)
        statuses = [self.app.wait(answer).status for _, answer in begun]
        self.assertEqual([200, 200, 403, 403], statuses)

    def test_what_is_refused_at_its_end_does_not_stay(self) -> None:
        body, answer = self.begin()
        self.configure(user_quota_bytes=5)
        body.asked.callback(b"too much")
        body.asked.callback(None)
        self.assertEqual(403, self.app.wait(answer).status)
        self.app.advance(ORPHAN_AGE_S + 1)
        self.app.wait(Deferred.fromCoroutine(self.app.app.services.media.sweeper.sweep()))
        self.assertEqual([], self.stored())

    def work(self, unit: Callable[..., Any], *args: Any, **named: Any) -> None:
        """Do something to alice's account while she uploads."""
        nid = self.app.wait(Deferred.fromCoroutine(self.app.app.core.interner.user(f"@alice:{SERVER_NAME}")))
        self.app.wait(self.app.app.core.committer.work(unit, nid, *args, **named))

    def assert_refused_at_the_end(self, address: str, status: int, errcode: str) -> None:
        """Of a new address as of one that was made beforehand; and nothing of it stays."""
        for body, answer in self.begun:
            body.asked.callback(b"x" * 300_000)
            body.asked.callback(None)
            found = self.app.wait(answer)
            assert isinstance(found.body, bytes)
            self.assertEqual((status, errcode), (found.status, json.loads(found.body)["errcode"]))
        row = self.app.wait(self.app.database.read(load_media, *address.split("/")))
        assert row is not None
        self.assertEqual((None, []), (row.sha256, self.stored("incoming")))
        self.app.advance(ORPHAN_AGE_S + 1)
        self.app.wait(Deferred.fromCoroutine(self.app.app.services.media.sweeper.sweep()))
        self.assertEqual([], self.stored())

    def begin_both(self) -> str:
        address = self.create()
        self.begun = [self.begin(), self.begin("PUT", f"{UPLOAD}/{address}")]
        return address

    def test_an_account_that_ends_meanwhile(self) -> None:
        address = self.begin_both()
        self.work(deactivate_account, erase=False)
        self.assert_refused_at_the_end(address, 401, "M_UNKNOWN_TOKEN")

    def test_an_account_that_is_locked_meanwhile(self) -> None:
        address = self.begin_both()
        self.work(set_standing, suspended=None, locked=True)
        self.assert_refused_at_the_end(address, 401, "M_USER_LOCKED")

    def test_an_account_that_is_suspended_meanwhile(self) -> None:
        address = self.begin_both()
        self.work(set_standing, suspended=True, locked=None)
        self.assert_refused_at_the_end(address, 403, "M_USER_SUSPENDED")

    def test_begun_in_time_and_ended_late(self) -> None:
        address = self.create()
        body, answer = self.begin("PUT", f"{UPLOAD}/{address}")
        self.app.advance(86_400)
        body.asked.callback(None)
        self.assertEqual((200, b""), (self.app.wait(answer).status, self.get(address).body))


@on_each_database
@in_a_bucket_too
class UploadLater(MediaCase):
    """# spec: client-server-api#post_matrixmediav1create"""

    def fill(self, address: str, data: bytes = b"late", token: str | None = None) -> Answer:
        headers = {"Content-Type": "text/plain"}
        path = f"{UPLOAD}/{address}"
        return self.app.answer("PUT", path, data, token or self.alice, {"filename": "l.txt"}, headers)

    def test_in_two_steps(self) -> None:
        made = self.app.ok("POST", CREATE, {}, self.alice)
        self.assertEqual(int(self.app.time.seconds() * 1000) + 86_400_000, made["unused_expires_at"])
        address = made["content_uri"].removeprefix("mxc://")
        answer = self.fill(address)
        self.assertEqual((200, {}), (answer.status, answer.json))
        found = self.get(address)
        self.assertEqual((b"late", "text/plain"), (found.body, found.headers["content-type"]))
        self.assertEqual('inline; filename="l.txt"', found.headers["content-disposition"])

    def test_refused(self) -> None:
        address = self.create()
        self.refused(self.fill(address, token=self.bob), 403, "M_FORBIDDEN")
        self.refused(self.fill(address, b"x" * 1_000_001), 413, "M_TOO_LARGE")
        self.assertEqual(200, self.fill(address).status)
        self.refused(self.fill(address), 409, "M_CANNOT_OVERWRITE_MEDIA")
        self.refused(self.fill(self.upload(b"x")), 409, "M_CANNOT_OVERWRITE_MEDIA")
        self.refused(self.fill(f"{SERVER_NAME}/unknown"), 404, "M_NOT_FOUND")
        self.refused(self.fill("elsewhere.example/" + address.partition("/")[2]), 404, "M_NOT_FOUND")
        self.refused(self.fill(f"{SERVER_NAME}/.."), 400, "M_INVALID_PARAM")
        self.assertEqual(b"late", self.get(address).body)

    def test_it_expires(self) -> None:
        address = self.create()
        self.app.advance(86_400)
        self.refused(self.fill(address), 404, "M_NOT_FOUND")
        self.refused(self.get(address), 404, "M_NOT_FOUND")

    def test_so_many_at_a_time(self) -> None:
        first = self.create()
        for _ in range(2):
            self.create()
        refused = self.app.answer("POST", CREATE, None, self.alice)
        self.refused(refused, 429, "M_LIMIT_EXCEEDED")
        # spec: client-server-api#rate-limiting (any response with a 429)
        self.assertIn("retry-after", refused.headers)
        self.create(self.bob)
        self.fill(first)
        self.create()
        self.app.advance(86_401)
        self.create()

    def begin(self, address: str, query: Query | None = None) -> tuple[Deferred[Answer], list[Any]]:
        waiting = self.app.start("GET", f"{DOWNLOAD}/{address}", None, self.alice, query)
        answers: list[Any] = []
        waiting.addBoth(answers.append)
        self.app.advance(0)
        return waiting, answers

    def test_a_download_waits_for_the_file(self) -> None:
        address = self.create()
        _, one = self.begin(address)
        _, other = self.begin(address, {"timeout_ms": 1000})
        gone, _ = self.begin(address)
        gone.cancel()
        self.app.advance(1)
        self.refused(other[0], 504, "M_NOT_YET_UPLOADED")
        self.assertEqual([], one)
        self.fill(address)
        self.app.advance(0)
        self.assertEqual((200, b"late"), (one[0].status, one[0].body))
        self.assertEqual({}, self.app.app.services.media.repository._waiters._waiting)

    def test_no_longer_than_said(self) -> None:
        address = self.create()
        self.refused(self.get(address, query={"timeout_ms": 0}), 504, "M_NOT_YET_UPLOADED")
        _, usual = self.begin(address)
        _, longest = self.begin(address, {"timeout_ms": 10**15})
        self.app.advance(19.9)
        self.assertEqual([], usual)
        self.app.advance(0.1)
        self.refused(usual[0], 504, "M_NOT_YET_UPLOADED")
        self.app.advance(40)
        self.refused(longest[0], 504, "M_NOT_YET_UPLOADED")
        self.refused(self.get(address, query={"timeout_ms": -1}), 400, "M_INVALID_PARAM")
        self.refused(self.get(address, query={"timeout_ms": "soon"}), 400, "M_INVALID_PARAM")

    def test_not_uploaded_yet_by_every_path(self) -> None:
        address = self.create()
        for top in (DOWNLOAD, OLD):
            for path in (address, f"{address}/report.pdf"):
                self.refused(self.get(path, None, {"timeout_ms": 0}, top), 504, "M_NOT_YET_UPLOADED")
        size = {"width": 32, "height": 32, "timeout_ms": 0}
        for top in (THUMBNAIL, OLD_THUMBNAIL):
            self.refused(self.get(address, None, size, top), 504, "M_NOT_YET_UPLOADED")
            self.refused(self.get(address, None, {**size, "width": -1}, top), 400, "M_INVALID_PARAM")


@on_each_database
@in_a_bucket_too
class Sweep(MediaCase):
    def sweep(self) -> int:
        return self.wait(self.app.app.services.media.sweeper.sweep())

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.app.wait(Deferred.fromCoroutine(work))

    def store(self, data: bytes) -> str:
        """What nobody names."""
        return self.wait(self.storage.store([data]))

    def test_only_what_nobody_needs(self) -> None:
        address = self.upload(b"kept")
        pending = self.create()
        orphan = self.store(b"orphan")
        self.wait(self.storage.keep_thumbnail(orphan, "crop-32x32.png", b"small"))
        spool = self.wait(self.storage.begin())
        spool.close(self.app.time.seconds())
        self.assertEqual(0, self.sweep())
        self.app.advance(ORPHAN_AGE_S + 1)
        young = self.store(b"young")
        self.assertEqual(2, self.sweep())
        self.assertEqual(sorted([sha256(b"kept").hexdigest(), young]), self.stored())
        self.assertEqual(([], []), (self.stored("incoming"), self.stored("thumbnails")))
        self.assertEqual(b"kept", self.get(address).body)
        self.refused(self.get(pending), 404, "M_NOT_FOUND")

    def test_content_that_comes_again_is_young(self) -> None:
        name = self.store(b"again")
        self.app.advance(ORPHAN_AGE_S + 1)
        before_s = self.app.time.seconds() - ORPHAN_AGE_S
        old = self.wait(self.storage.older_than(name[:2], before_s))
        address = self.upload(b"again")
        self.assertEqual(([name], 0), (old, self.wait(self.storage.remove(old, before_s))))
        self.assertEqual(b"again", self.get(address).body)

    def test_by_the_clock(self) -> None:
        self.store(b"orphan")
        self.app.advance(ORPHAN_AGE_S)
        self.app.app.begin()
        self.app.advance(600)
        self.assertEqual([], self.stored())
        self.assertEqual(["media without an address removed"], self.app.log.events("info"))
        self.store(b"orphan")
        # The next sweep comes when it is not older than that, the one after it when it is.
        for left in (1, 0):
            self.app.advance(ORPHAN_AGE_S)
            self.assertEqual(left, len(self.stored()))


@on_each_database
@in_a_bucket_too
class Quotas(MediaCase):
    """# spec: client-server-api#content-repo-security-considerations"""

    def test_bytes(self) -> None:
        self.configure(user_quota_bytes=1000)
        self.upload(b"x" * 600)
        self.refused(self.post(b"x" * 401), 403, "M_USER_LIMIT_EXCEEDED")
        address = self.create()
        path = f"{UPLOAD}/{address}"
        self.refused(self.app.answer("PUT", path, b"x" * 401, self.alice), 403, "M_USER_LIMIT_EXCEEDED")
        self.assertEqual(200, self.app.answer("PUT", path, b"x" * 400, self.alice).status)
        self.upload(b"")
        self.assertEqual(200, self.post(b"x" * 1000, token=self.bob).status)
        self.configure(user_quota_bytes=999)
        self.refused(self.post(b""), 403, "M_USER_LIMIT_EXCEEDED")
        self.configure(user_quota_bytes=None)
        self.upload(b"x" * 2000)

    def test_files(self) -> None:
        held = self.create()
        self.configure(user_quota_files=2)
        for _ in range(2):
            self.upload(b"same")
        self.refused(self.post(b""), 403, "M_USER_LIMIT_EXCEEDED")
        self.refused(self.app.answer("POST", CREATE, None, self.alice), 403, "M_USER_LIMIT_EXCEEDED")
        self.refused(
            self.app.answer("PUT", f"{UPLOAD}/{held}", b"", self.alice), 403, "M_USER_LIMIT_EXCEEDED"
        )
        self.create(self.bob)

    def test_a_page_that_explains_it(self) -> None:
        self.configure(user_quota_files=1, quota_info_uri="https://test.example/quota")
        self.upload(b"x")
        answer = self.post(b"x")
        self.refused(answer, 403, "M_USER_LIMIT_EXCEEDED")
        self.assertEqual("https://test.example/quota", answer.json["info_uri"])

    def test_refused_files_are_not_stored(self) -> None:
        held = f"{UPLOAD}/{self.create()}"
        self.configure(user_quota_bytes=5)
        for method, path in (("POST", UPLOAD), ("PUT", held)):
            self.refused(self.app.answer(method, path, b"too much", self.alice), 403, "M_USER_LIMIT_EXCEEDED")
            self.assertEqual(([], []), (self.stored(), self.stored("incoming")))
        self.configure(user_quota_bytes=1_000_001)
        self.refused(self.post(b"x" * 1_000_001), 413, "M_TOO_LARGE")
        self.configure(user_quota_bytes=300_000)
        self.refused(self.post(b"x" * 300_001), 403, "M_USER_LIMIT_EXCEEDED")
        self.assertEqual(([], []), (self.stored(), self.stored("incoming")))


class Limits(DatabaseCase):
    def test_rate(self) -> None:
        limits = RateLimits(media=RateLimit(0.1, 3), register=RateLimit(10, 10))
        config = test_config(data_dir=Path(self.mktemp()).absolute(), rate_limits=limits)
        app = TestApp(self, self.new_database(), config)
        token = app.register("alice")
        statuses = [app.call("POST", UPLOAD, b"x", token)[0] for _ in range(5)]
        self.assertEqual([200, 200, 200, 429, 429], statuses)
