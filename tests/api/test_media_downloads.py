"""Downloads and thumbnails over the API. spec: client-server-api#content-repo-client-behaviour"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Any

from homeserver.store import media as store
from homeserver.store.media import MediaRow, load_media
from tests.api.media import (
    DOWNLOAD,
    OLD,
    OLD_THUMBNAIL,
    POLICY,
    THUMBNAIL,
    UPLOAD,
    MediaCase,
    in_a_bucket_too,
)
from tests.support.app import SERVER_NAME
from tests.support.databases import on_each_database
from tests.support.http import Answer, path_of
from tests.unit.media.pictures import animation, load, picture


@on_each_database
@in_a_bucket_too
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
        self.refused(self.get(f"{SERVER_NAME}/nope/other.png"), 404, "M_NOT_FOUND")

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
            self.refused(self.get(f"elsewhere.example/{media_id}", top=top), 502, "M_UNKNOWN")
            for bad in ("..%2F..%2Fetc", "a%00b", "a.b", "%2e%2e", "%C3%A9", "x" * 256):
                self.refused(self.get(f"{SERVER_NAME}/{bad}", top=top), 400, "M_INVALID_PARAM")
            self.refused(self.get(f"%2e%2e%2f/{media_id}", top=top), 400, "M_INVALID_PARAM")
        self.refused(self.app.answer("GET", f"{DOWNLOAD}/{address}"), 401, "M_MISSING_TOKEN")

    def test_a_file_that_is_lost(self) -> None:
        address = self.upload(b"x")
        (path,) = (self.folder / "files").rglob(sha256(b"x").hexdigest())
        path.unlink()
        self.bucket.objects.clear()
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
        drawn = self.upload(picture(40, 30))
        self.app.advance(10)
        self.configure(freeze_unauthenticated_ts_ms=int(self.app.time.seconds() * 1000))
        later = self.upload(b"after")
        found = self.app.answer(
            "GET", f"{OLD}/{address}", None, None, {"allow_remote": False, "allow_redirect": True}
        )
        self.assertEqual((200, b"before"), (found.status, found.body))
        self.assertTrue(found.headers["cache-control"].startswith("public"))
        named = self.app.answer("GET", f"{OLD}/{address}/other.png")
        self.assertEqual('inline; filename="other.png"', named.headers["content-disposition"])
        for gone in (later, f"{later}/other.png"):
            self.refused(self.app.answer("GET", f"{OLD}/{gone}"), 404, "M_NOT_FOUND")
        size = {"width": 9, "height": 9}
        self.refused(self.app.answer("GET", f"{OLD_THUMBNAIL}/{later}", None, None, size), 404, "M_NOT_FOUND")
        small = self.app.answer("GET", f"{OLD_THUMBNAIL}/{drawn}", None, None, size)
        self.assertEqual((200, "image/png"), (small.status, small.headers["content-type"]))
        self.assertEqual(b"after", self.get(later).body)
        self.refused(
            self.app.answer("GET", f"{OLD}/{address}", None, None, {"allow_remote": "maybe"}),
            400,
            "M_INVALID_PARAM",
        )


class Rows(MediaCase):
    """What a download reads and notes."""

    def row(self, address: str) -> MediaRow:
        origin, _, media_id = address.partition("/")
        found = self.app.wait(self.app.database.read(load_media, origin, media_id))
        assert found is not None
        return found

    def test_last_access_by_the_day(self) -> None:
        address = self.upload(b"x")
        self.assertIsNone(self.row(address).last_access_ts_ms)
        seen: list[int | None] = []
        for seconds in (0, 86_399, 1):
            self.app.advance(seconds)
            self.get(address)
            self.app.advance(0)
            seen.append(self.row(address).last_access_ts_ms)
        start_ms = seen[0] or 0
        self.assertEqual([start_ms, start_ms, start_ms + 86_400_000], seen)

    def test_quarantined(self) -> None:
        address = self.upload(b"x")
        row = self.row(address)._replace(quarantined=1)
        self.patch(store, "load_media", lambda tx, origin, media_id: row)
        self.refused(self.get(address), 404, "M_NOT_FOUND")

    def test_an_upload_to_an_address_counts_from_its_end(self) -> None:
        address = self.create()
        self.app.advance(10)
        self.configure(freeze_unauthenticated_ts_ms=int(self.app.time.seconds() * 1000))
        self.app.ok("PUT", f"{UPLOAD}/{address}", b"late", self.alice)
        self.refused(self.app.answer("GET", f"{OLD}/{address}"), 404, "M_NOT_FOUND")
        self.assertEqual(b"late", self.get(address).body)


@in_a_bucket_too
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

    def test_animations_made_smaller(self) -> None:
        address = self.upload(animation(400, 400), "image/gif")
        for _ in range(2):
            moving = self.thumbnail(address, 96, 96, "crop", animated=True)
            self.assertEqual((200, "image/webp"), (moving.status, moving.headers["content-type"]))
            self.assertEqual('inline; filename="thumbnail.webp"', moving.headers["content-disposition"])
            self.assertTrue(load(moving.body).is_animated)  # type: ignore[attr-defined]
        self.assertEqual(["crop-96x96-animated.webp"], self.stored("thumbnails"))
        for still in (
            self.thumbnail(address, 96, 96, "crop"),
            self.thumbnail(address, 96, 96, "crop", animated=False),
        ):
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
