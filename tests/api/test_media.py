"""The content repository over the API. spec: client-server-api#content-repository"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from homeserver.config.schema import Media, RateLimit, RateLimits
from homeserver.media.sweep import ORPHAN_AGE_S
from tests.support.app import SERVER_NAME, TestApp, test_config
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.http import Answer, Query, path_of
from tests.unit.media.pictures import animation, load, picture

UPLOAD = "/_matrix/media/v3/upload"
CREATE = "/_matrix/media/v1/create"
DOWNLOAD = "/_matrix/client/v1/media/download"
THUMBNAIL = "/_matrix/client/v1/media/thumbnail"
OLD = "/_matrix/media/v3/download"
POLICY = (
    "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; "
    "style-src 'unsafe-inline'; object-src 'self';"
)


class MediaCase(DatabaseCase):
    """Alice and Bob with small limits."""

    def setUp(self) -> None:
        media = Media(max_upload_bytes=1_000_000, max_pending_uploads=3, max_thumbnail_pixels=1_000_000)
        config = test_config(data_dir=Path(self.mktemp()).absolute(), media=media)
        self.app = TestApp(self, self.new_database(), config)
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")

    def configure(self, **changes: Any) -> None:
        config = self.app.app.services.settings.config
        self.app.app.reload(replace(config, media=replace(config.media, **changes)))

    def post(
        self,
        data: bytes,
        content_type: str | None = "image/png",
        query: Query | None = None,
        token: str | None = None,
    ) -> Answer:
        headers = {} if content_type is None else {"Content-Type": content_type}
        return self.app.answer("POST", UPLOAD, data, token or self.alice, query, headers)

    def upload(self, data: bytes, content_type: str | None = "image/png", name: str | None = None) -> str:
        """The path of the address: `server/id`."""
        answer = self.post(data, content_type, None if name is None else {"filename": name})
        self.assertEqual(200, answer.status, answer.json)
        uri: str = answer.json["content_uri"]
        self.assertTrue(uri.startswith(f"mxc://{SERVER_NAME}/"))
        return uri.removeprefix("mxc://")

    def get(
        self,
        address: str,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        top: str = DOWNLOAD,
    ) -> Answer:
        return self.app.answer("GET", f"{top}/{address}", None, self.alice, query, headers)

    def create(self, token: str | None = None) -> str:
        answer = self.app.ok("POST", CREATE, None, token or self.alice)
        uri: str = answer["content_uri"]
        return uri.removeprefix("mxc://")

    def stored(self, folder: str = "files") -> list[str]:
        found: list[str] = []
        for _, _, names in os.walk(self.app.config.data_dir / "media" / folder):
            found += names
        return sorted(found)

    def refused(self, answer: Answer, status: int, errcode: str) -> None:
        self.assertEqual((status, errcode), (answer.status, answer.errcode), answer.json)


@on_each_database
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
        folder = self.app.config.data_dir / "media"
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


@on_each_database
class Downloads(MediaCase):
    def test_headers(self) -> None:
        found = self.get(self.upload(b"x", "image/png", "me.png"))
        self.assertEqual('inline; filename="me.png"', found.headers["content-disposition"])
        self.assertEqual(POLICY, found.headers["content-security-policy"])
        self.assertEqual("cross-origin", found.headers["cross-origin-resource-policy"])
        self.assertEqual("nosniff", found.headers["x-content-type-options"])
        self.assertTrue(found.headers["cache-control"].startswith("private"))
        self.assertEqual(f'"{sha256(b"x").hexdigest()}"', found.headers["etag"])

    def test_names(self) -> None:
        address = self.upload(b"x", "image/png", "me.png")
        for name, shown in (
            ("other.png", 'filename="other.png"'),
            ("a b;c.png", 'filename="a b;c.png"'),
            ('"quoted".png', "filename*=utf-8''%22quoted%22.png"),
            ("back\\slash%20", "filename*=utf-8''back%5Cslash%2520"),
            ("\r\nX: y", "filename*=utf-8''%0D%0AX%3A%20y"),
            ("bücher/.pdf", "filename*=utf-8''b%C3%BCcher%2F.pdf"),
            ("", 'filename="me.png"'),
        ):
            found = self.get(address + path_of("/{name}", name=name))
            self.assertEqual(f"inline; {shown}", found.headers["content-disposition"])
        self.assertEqual("inline", self.get(self.upload(b"x")).headers["content-disposition"])
        self.refused(self.get(address + "/" + "x" * 1025), 400, "M_INVALID_PARAM")

    def test_what_could_run_is_not_shown_in_the_page(self) -> None:
        for content_type in ("text/html", "image/svg+xml", "application/pdf", "application/javascript"):
            found = self.get(self.upload(b"x", content_type))
            self.assertEqual("attachment", found.headers["content-disposition"])
        for content_type in ("TEXT/Plain ; charset=x", "audio/ogg", "image/avif", "application/ld+json"):
            self.assertEqual(
                "inline", self.get(self.upload(b"x", content_type)).headers["content-disposition"]
            )

    def test_unknown_and_impossible_addresses(self) -> None:
        address = self.upload(b"x")
        media_id = address.partition("/")[2]
        for top in (DOWNLOAD, OLD, "/_matrix/media/r0/download", "/_matrix/media/v1/download"):
            self.refused(self.get(f"{SERVER_NAME}/nope", top=top), 404, "M_NOT_FOUND")
            self.refused(self.get(f"elsewhere.example/{media_id}", top=top), 404, "M_NOT_FOUND")
            for bad in ("..%2F..%2Fetc", "a%00b", "a.b", "%2e%2e", "%C3%A9", "x" * 256):
                self.refused(self.get(f"{SERVER_NAME}/{bad}", top=top), 400, "M_INVALID_PARAM")
            self.refused(self.get(f"%2e%2e%2f/{media_id}", top=top), 400, "M_INVALID_PARAM")
        self.refused(self.app.answer("GET", f"{DOWNLOAD}/{address}"), 401, "M_MISSING_TOKEN")

    def test_a_file_that_is_lost(self) -> None:
        address = self.upload(b"x")
        (path,) = (self.app.config.data_dir / "media" / "files").rglob(sha256(b"x").hexdigest())
        path.unlink()
        self.refused(self.get(address), 404, "M_NOT_FOUND")
        self.assertEqual(["a file cannot be read"], self.app.log.events("error"))
        self.app.log.entries.clear()

    def test_parts(self) -> None:
        data = os.urandom(400_000)
        address = self.upload(data)
        for asked, start, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=5-9", 5, 10),
            ("Bytes = 399999-", 399_999, 400_000),
            ("bytes=-3", 399_997, 400_000),
            ("bytes=-999999", 0, 400_000),
            ("bytes=1-9999999", 1, 400_000),
            ("bytes=100000-350000", 100_000, 350_001),
        ):
            found = self.get(address, {"Range": asked})
            self.assertEqual((206, data[start:end]), (found.status, found.body), asked)
            self.assertEqual(f"bytes {start}-{end - 1}/400000", found.headers["content-range"])
        for ignored in (
            "bytes=9-5",
            "bytes=-",
            "bytes=0-1,5-6",
            "lines=1-2",
            "bytes=a-b",
            "bytes=1",
            "bytes=" + "9" * 50,
        ):
            found = self.get(address, {"Range": ignored})
            self.assertEqual((200, 400_000), (found.status, len(found.body)), ignored)
        for beyond in ("bytes=400000-", "bytes=400000-400001", "bytes=-0"):
            found = self.get(address, {"Range": beyond})
            self.assertEqual((416, "bytes */400000"), (found.status, found.headers["content-range"]))
        self.assertEqual(416, self.get(self.upload(b""), {"Range": "bytes=0-"}).status)

    def test_conditions(self) -> None:
        address = self.upload(b"hello")
        etag = self.get(address).headers["etag"]
        for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            found = self.get(address, {"If-None-Match": known})
            self.assertEqual((304, b"", etag), (found.status, found.body, found.headers["etag"]))
        self.assertEqual(200, self.get(address, {"If-None-Match": '"x"'}).status)
        self.assertEqual(206, self.get(address, {"Range": "bytes=1-2", "If-Range": etag}).status)
        self.assertEqual(200, self.get(address, {"Range": "bytes=1-2", "If-Range": '"x"'}).status)

    def test_strangers_and_the_freeze(self) -> None:
        address = self.upload(b"before")
        self.app.advance(10)
        self.configure(freeze_unauthenticated_ts_ms=int(self.app.time.seconds() * 1000))
        later = self.upload(b"after")
        found = self.app.answer(
            "GET", f"{OLD}/{address}", None, None, {"allow_remote": False, "allow_redirect": True}
        )
        self.assertEqual((200, b"before"), (found.status, found.body))
        self.assertTrue(found.headers["cache-control"].startswith("public"))
        self.refused(self.app.answer("GET", f"{OLD}/{later}"), 404, "M_NOT_FOUND")
        self.refused(
            self.app.answer(
                "GET", f"/_matrix/media/v3/thumbnail/{later}", None, None, {"width": 9, "height": 9}
            ),
            404,
            "M_NOT_FOUND",
        )
        self.assertEqual(b"after", self.get(later).body)
        self.refused(
            self.app.answer("GET", f"{OLD}/{address}", None, None, {"allow_remote": "maybe"}),
            400,
            "M_INVALID_PARAM",
        )


@on_each_database
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
        self.refused(self.app.answer("POST", CREATE, None, self.alice), 429, "M_LIMIT_EXCEEDED")
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


@on_each_database
class Sweep(MediaCase):
    def sweep(self) -> int:
        return self.app.wait(Deferred.fromCoroutine(self.app.app.services.media.sweeper.sweep()))

    def test_only_what_nobody_needs(self) -> None:
        address = self.upload(b"kept")
        pending = self.create()
        files = self.app.app.services.media.repository._files
        orphan = files.store("t", [b"orphan"], self.app.time.seconds())
        files.keep_thumbnail(orphan, "crop-32x32.png", "t2", b"small")
        spool = files.begin("broken off")
        spool.close(self.app.time.seconds())
        self.assertEqual(0, self.sweep())
        self.app.advance(ORPHAN_AGE_S + 1)
        young = files.store("t3", [b"young"], self.app.time.seconds())
        self.assertEqual(2, self.sweep())
        self.assertEqual(sorted([sha256(b"kept").hexdigest(), young]), self.stored())
        self.assertEqual(([], []), (self.stored("incoming"), self.stored("thumbnails")))
        self.assertEqual(b"kept", self.get(address).body)
        self.refused(self.get(pending), 404, "M_NOT_FOUND")

    def test_content_that_comes_again_is_young(self) -> None:
        files = self.app.app.services.media.repository._files
        name = files.store("t", [b"again"], self.app.time.seconds())
        self.app.advance(ORPHAN_AGE_S + 1)
        before_s = self.app.time.seconds() - ORPHAN_AGE_S
        old = files.older_than(name[:2], before_s)
        address = self.upload(b"again")
        self.assertEqual(([name], 0), (old, files.remove(old, before_s)))
        self.assertEqual(b"again", self.get(address).body)

    def test_by_the_clock(self) -> None:
        files = self.app.app.services.media.repository._files
        self.app.app.begin()
        files.store("t", [b"orphan"], self.app.time.seconds() - ORPHAN_AGE_S - 1)
        self.app.advance(600)
        self.assertEqual([], self.stored())
        self.assertEqual(["media without an address removed"], self.app.log.events("info"))
        files.store("t", [b"orphan"], self.app.time.seconds() - 1)
        self.app.advance(ORPHAN_AGE_S)
        self.assertEqual([], self.stored())


class Thumbnails(MediaCase):
    def thumbnail(
        self, address: str, width: Any = 32, height: Any = 32, method: str = "crop", **more: Any
    ) -> Answer:
        query = {"width": width, "height": height, "method": method, **more}
        return self.get(address, query=query, top=THUMBNAIL)

    def test_made_once_and_kept(self) -> None:
        data = picture(400, 200)
        address = self.upload(data, name="wide.png")
        first = self.thumbnail(address)
        self.assertEqual((200, "image/jpeg"), (first.status, first.headers["content-type"]))
        self.assertEqual((32, 32), load(first.body).size)
        self.assertEqual('inline; filename="thumbnail.jpeg"', first.headers["content-disposition"])
        self.assertEqual(POLICY, first.headers["content-security-policy"])
        self.assertEqual(["crop-32x32.jpeg"], self.stored("thumbnails"))
        thumbnails = self.app.app.services.media.thumbnails
        thumbnails._worker.end()
        second = self.thumbnail(address)
        self.assertEqual((first.body, first.headers), (second.body, second.headers))
        self.assertFalse(thumbnails._worker.is_running)
        self.assertNotEqual(self.get(address).headers["etag"], first.headers["etag"])
        old = self.app.answer(
            "GET",
            f"/_matrix/media/r0/thumbnail/{address}",
            None,
            None,
            {"width": 32, "height": 32, "method": "crop"},
        )
        self.assertEqual(first.body, old.body)

    def test_the_worker_rests(self) -> None:
        worker = self.app.app.services.media.thumbnails._worker
        self.thumbnail(self.upload(picture(100, 100)))
        self.app.advance(50)
        self.thumbnail(self.upload(picture(101, 100)))
        self.app.advance(59)
        self.assertTrue(worker.is_running)
        self.app.advance(1)
        self.assertFalse(worker.is_running)

    def test_small_pictures_as_they_are(self) -> None:
        data = picture(50, 40)
        address = self.upload(data, "image/jpeg")
        for _ in range(2):
            found = self.thumbnail(address, 100, 100, "scale")
            self.assertEqual((data, "image/png"), (found.body, found.headers["content-type"]))
        self.assertEqual([], self.stored("thumbnails"))

    def test_animations(self) -> None:
        address = self.upload(animation(50, 40), "image/gif")
        self.assertEqual("image/jpeg", self.thumbnail(address, 100, 100, "scale").headers["content-type"])
        moving = self.thumbnail(address, 100, 100, "scale", animated=True)
        self.assertEqual(animation(50, 40), moving.body)
        still = self.thumbnail(address, 100, 100, "scale", animated=False)
        self.assertEqual("image/jpeg", still.headers["content-type"])

    def test_refused(self) -> None:
        address = self.upload(picture(100, 100))
        for width in (0, -1, "x", "1.5", 10**20):
            self.refused(self.thumbnail(address, width), 400, "M_INVALID_PARAM")
        self.refused(self.thumbnail(address, method="stretch"), 400, "M_INVALID_PARAM")
        self.refused(self.thumbnail(address, animated="perhaps"), 400, "M_INVALID_PARAM")
        self.refused(self.get(address, query={"width": 5}, top=THUMBNAIL), 400, "M_MISSING_PARAM")
        self.refused(self.thumbnail(f"{SERVER_NAME}/nope"), 404, "M_NOT_FOUND")
        self.refused(self.thumbnail(self.upload(b"words", "text/plain")), 400, "M_UNKNOWN")
        self.refused(self.thumbnail(self.upload(b"no picture")), 400, "M_UNKNOWN")
        self.refused(self.thumbnail(self.upload(picture(1001, 1000))), 413, "M_TOO_LARGE")

    def test_many_shapes_do_not_fill_the_disk(self) -> None:
        address = self.upload(picture(300, 300))
        for width in range(10, 30):
            found = self.thumbnail(address, width, 32)
            self.assertEqual((width, 32), load(found.body).size)
        self.assertEqual(16, len(self.stored("thumbnails")))


class Limits(DatabaseCase):
    def test_rate(self) -> None:
        limits = RateLimits(media=RateLimit(0.1, 3), register=RateLimit(10, 10))
        config = test_config(data_dir=Path(self.mktemp()).absolute(), rate_limits=limits)
        app = TestApp(self, self.new_database(), config)
        token = app.register("alice")
        statuses = [app.call("POST", UPLOAD, b"x", token)[0] for _ in range(5)]
        self.assertEqual([200, 200, 200, 429, 429], statuses)
