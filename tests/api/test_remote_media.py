"""Media between servers: ours for others, and those of others for our users, whatever they send.

spec: server-server-api#content-repository
"""

from __future__ import annotations

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import update
from twisted.internet.defer import Deferred

from federation.ids import ServerName
from homeserver.config.schema import Media
from homeserver.db.schema.media import media
from homeserver.db.statements import statement
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from homeserver.media.files import MediaFiles
from homeserver.media.multipart import MultipartReader
from homeserver.media.remote import FETCHES_EACH
from homeserver.media.sweep import ORPHAN_AGE_S
from homeserver.store.media import MediaRow, load_media
from tests.api.media import CREATE, DOWNLOAD, OLD, THUMBNAIL, UPLOAD, in_a_bucket_too
from tests.support.bucket import BucketHttp, FakeBucket, s3_settings
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.federation import NetServer, TestNet
from tests.support.http import Answer, Query
from tests.unit.media.pictures import picture

SIGNED = "/_matrix/federation/v1/media"
LIMIT = 1_000_000


def parts(data: bytes, headers: bytes = b"Content-Type: text/plain", boundary: bytes = b"b0") -> bytes:
    """An answer as another server might write it."""
    mark = b"--" + boundary
    first = mark + b"\r\nContent-Type: application/json\r\n\r\n{}\r\n"
    return first + mark + b"\r\n" + headers + b"\r\n\r\n" + data + b"\r\n" + mark + b"--\r\n"


def mixed(body: bytes, boundary: str = "b0") -> PeerResponse:
    return PeerResponse(200, body, {"content-type": f"multipart/mixed; boundary={boundary}"})


def refusal(status: int, errcode: str) -> PeerResponse:
    return PeerResponse(status, b'{"errcode":"%s","error":"no"}' % errcode.encode())


class RemoteMediaCase(DatabaseCase):
    """Two servers with small limits; alice is on the one, bob on the other."""

    in_bucket = False

    def setUp(self) -> None:
        self.net = TestNet(self)
        self.buckets: dict[str, FakeBucket] = {}
        self.a, self.b = (self.server(name) for name in ("a.example", "b.example"))
        self.alice = self.a.register("alice")
        self.bob = self.b.register("bob")

    def server(self, name: str) -> NetServer:
        options = Media(max_upload_bytes=LIMIT, max_thumbnail_pixels=1_000_000)
        folder = Path(self.mktemp()).absolute()
        bucket = self.buckets[name] = FakeBucket(self.net.time.seconds)
        if self.in_bucket:
            options = replace(options, storage="s3", s3=s3_settings())
        return self.net.server(
            name,
            database=self.new_database(),
            appservice_http=BucketHttp(bucket),
            media=options,
            data_dir=folder,
        )

    def call(
        self,
        server: NetServer,
        path: str,
        token: str | None = None,
        query: Query | None = None,
        headers: dict[str, str] | None = None,
        method: str = "GET",
        body: Any = None,
    ) -> Answer:
        return self.net.wait(server.http.call(method, path, body, token, query, headers))

    def upload(self, data: bytes, content_type: str = "image/png", name: str | None = None) -> str:
        """At b, by bob; `server/id`."""
        query = {} if name is None else {"filename": name}
        answer = self.call(self.b, UPLOAD, self.bob, query, {"Content-Type": content_type}, "POST", data)
        self.assertEqual(200, answer.status, answer.json)
        uri: str = answer.json["content_uri"]
        return uri.removeprefix("mxc://")

    def get(self, address: str, query: Query | None = None) -> Answer:
        """At a, by alice."""
        return self.call(self.a, f"{DOWNLOAD}/{address}", self.alice, query)

    def refused(self, answer: Answer, status: int, errcode: str) -> None:
        self.assertEqual((status, errcode), (answer.status, answer.errcode), answer.json)

    def stored(self, server: NetServer, folder: str = "files") -> list[str]:
        if self.in_bucket and folder == "files":
            return self.buckets[server.config.server_name].names()
        top = self.folder(server) / folder
        return sorted(path.name for path in top.rglob("*") if path.is_file())

    def folder(self, server: NetServer) -> Path:
        return server.config.data_dir / ("media-cache" if self.in_bucket else "media")

    def row(self, address: str) -> MediaRow | None:
        origin, _, media_id = address.partition("/")
        return self.a.wait(self.a.database.read(load_media, origin, media_id))

    def configure(self, server: NetServer, **changes: Any) -> None:
        config = server.app.services.settings.config
        server.app.reload(replace(config, media=replace(config.media, **changes)))

    def answers(self, *responses: PeerResponse | Exception) -> None:
        """What b says, in place of b."""
        left = list(responses)

        def say(_: ServerName, request: PeerRequest) -> PeerResponse | Exception | None:
            if "/media/" not in request.uri:
                return None
            return left.pop(0) if len(left) > 1 else left[0]

        self.net.untamper()
        self.net.tamper(say)


@on_each_database
@in_a_bucket_too
class Fetching(RemoteMediaCase):
    def test_fetched_once_and_kept(self) -> None:
        data, address = b"", ""
        for size in (0, 1, 131_073, 262_144, 700_000, LIMIT):
            data = os.urandom(size)
            address = self.upload(data, "text/plain", "ä b.txt")
            for _ in range(2):
                found = self.get(address)
                self.assertEqual((200, data), (found.status, found.body))
                self.assertEqual("text/plain", found.headers["content-type"])
                self.assertEqual(
                    "inline; filename*=utf-8''%C3%A4%20b.txt", found.headers["content-disposition"]
                )
            self.assertEqual(1, len(self.net.sent(f"{SIGNED}/download/{address.partition('/')[2]}")))
        self.assertEqual(self.stored(self.b), self.stored(self.a))
        self.assertEqual([], self.stored(self.a, "incoming"))
        self.a.restart()
        self.net.down("b.example")
        self.assertEqual(data, self.get(address).body)

    def test_what_is_asked(self) -> None:
        address = self.upload(b"x")
        self.get(address, {"timeout_ms": 5000})
        (sent,) = self.net.sent(SIGNED)
        self.assertEqual(("a.example", "b.example"), (sent.origin, sent.request.destination))
        media_id = address.partition("/")[2]
        self.assertEqual(f"{SIGNED}/download/{media_id}?timeout_ms=5000", sent.request.uri)
        self.assertTrue((sent.request.authorization or "").startswith("X-Matrix "))

    def test_many_want_it_at_once(self) -> None:
        address = self.upload(os.urandom(300_000))
        waiting = [self.a.start("GET", f"{DOWNLOAD}/{address}", None, self.alice) for _ in range(5)]
        waiting[0].cancel()
        for one in waiting[1:]:
            self.assertEqual(200, self.net.wait(one).status)
        self.assertEqual(1, len(self.net.sent(SIGNED)))
        self.assertEqual(1, len(self.stored(self.a)))

    def test_thumbnails_are_made_here(self) -> None:
        address = self.upload(picture(400, 300))
        query: Query = {"width": 96, "height": 96, "method": "crop"}
        for _ in range(2):
            found = self.call(self.a, f"{THUMBNAIL}/{address}", self.alice, query)
            self.assertEqual((200, "image/jpeg"), (found.status, found.headers["content-type"]))
        self.assertEqual(1, len(self.net.sent(SIGNED)))
        self.refused(
            self.call(self.a, f"{THUMBNAIL}/{self.upload(b'x', 'text/plain')}", self.alice, query),
            400,
            "M_UNKNOWN",
        )
        # spec: client-server-api#content-repo-security-considerations (of our own it would be 413)
        large = self.upload(picture(1_100, 1_000))
        self.refused(self.call(self.a, f"{THUMBNAIL}/{large}", self.alice, query), 502, "M_TOO_LARGE")
        self.refused(self.call(self.b, f"{THUMBNAIL}/{large}", self.bob, query), 413, "M_TOO_LARGE")

    def test_not_uploaded_yet(self) -> None:
        made = self.call(self.b, CREATE, self.bob, method="POST").json["content_uri"].removeprefix("mxc://")
        self.refused(self.get(made, {"timeout_ms": 0}), 504, "M_NOT_YET_UPLOADED")
        waiting = self.a.start("GET", f"{DOWNLOAD}/{made}", None, self.alice, {"timeout_ms": 9_000})
        self.net.advance(5)
        self.assertFalse(waiting.called)
        self.call(self.b, f"{UPLOAD}/{made}", self.bob, None, {}, "PUT", b"at last")
        self.assertEqual(b"at last", self.net.wait(waiting).body)

    def test_there_is_none(self) -> None:
        self.refused(self.get("b.example/none"), 404, "M_NOT_FOUND")
        self.refused(self.get("b.example/../../etc/passwd"), 404, "M_UNRECOGNIZED")
        self.refused(self.get("b.example/..%2f..%2fetc"), 400, "M_INVALID_PARAM")
        self.refused(self.get("b.example/a.b"), 400, "M_INVALID_PARAM")
        self.refused(self.get("nobody.example/x"), 502, "M_UNKNOWN")
        self.net.down("b.example")
        self.refused(self.get(self.upload(b"x")), 502, "M_UNKNOWN")
        self.net.up("b.example")
        # Nothing of it was remembered.
        self.assertEqual(200, self.get(self.upload(b"y")).status)

    def test_servers_that_are_not_allowed(self) -> None:
        address = self.upload(b"x")
        config = self.a.app.services.settings.config
        denied = replace(config.federation, deny_servers=(ServerName("b.example"),))
        self.a.app.reload(replace(config, federation=denied))
        self.refused(self.get(address), 404, "M_NOT_FOUND")
        self.assertEqual([], self.net.sent(SIGNED))

    def test_without_logging_in(self) -> None:
        one, other, third = (self.upload(name) for name in (b"1", b"2", b"3"))
        local_only: Query = {"allow_remote": False}
        self.refused(self.call(self.a, f"{OLD}/{one}", None, local_only), 404, "M_NOT_FOUND")
        self.assertEqual([], self.net.sent(SIGNED))
        self.assertEqual(b"1", self.call(self.a, f"{OLD}/{one}").body)
        # What is here already needs no fetching.
        self.assertEqual(b"1", self.call(self.a, f"{OLD}/{one}", None, local_only).body)
        self.net.advance(10)
        self.configure(self.a, freeze_unauthenticated_ts_ms=self.net.now_ms)
        self.assertEqual(b"1", self.call(self.a, f"{OLD}/{one}").body)
        # spec: client-server-api#content-repo-client-behaviour (what is fetched after the freeze is new)
        self.refused(self.call(self.a, f"{OLD}/{other}"), 404, "M_NOT_FOUND")
        self.assertEqual(1, len(self.net.sent(SIGNED)))
        self.assertEqual(b"3", self.get(third).body)
        self.refused(self.call(self.a, f"{OLD}/{third}"), 404, "M_NOT_FOUND")

    def test_retention(self) -> None:
        day_s = 86_400
        self.configure(self.a, remote_retention_s=10 * day_s)
        old, used, bad, same = (self.upload(name) for name in (b"old", b"used", b"bad", b"same"))
        for address in (old, used, bad, same):
            self.get(address)
        self.quarantine(bad)
        kept = self.call(self.a, UPLOAD, self.alice, None, {}, "POST", b"same").json["content_uri"]
        for _ in range(5):
            self.net.leap(2 * day_s)
            self.get(used)
        self.net.leap(2 * day_s)
        self.net.leap(ORPHAN_AGE_S)
        self.assertIsNone(self.row(old))
        self.assertIsNone(self.row(same))
        self.assertIsNotNone(self.row(used))
        # That it may not be shown is not forgotten.
        self.assertIsNotNone(self.row(bad))
        names = [sha256(one).hexdigest() for one in (b"used", b"bad", b"same")]
        self.assertEqual(sorted(names), self.stored(self.a))
        self.assertEqual(b"same", self.get(kept.removeprefix("mxc://")).body)
        # It can be fetched again.
        self.assertEqual(b"old", self.get(old).body)
        self.refused(self.get(bad), 404, "M_NOT_FOUND")

    def quarantine(self, address: str) -> None:
        origin, _, media_id = address.partition("/")
        mine = update(media).where(media.c.origin == origin, media.c.media_id == media_id)
        self.a.wait(self.a.database.write(lambda tx: tx.run(statement(mine.values(quarantined=1)))))

    def test_a_file_that_is_lost_is_fetched_again(self) -> None:
        address = self.upload(b"lost")
        self.get(address)
        name = sha256(b"lost").hexdigest()
        (self.folder(self.a) / "files" / name[:2] / name[2:4] / name).unlink()
        self.buckets["a.example"].objects.clear()
        self.refused(self.get(address), 404, "M_NOT_FOUND")
        self.assertEqual(["a file cannot be read"], self.a.log.events("error"))
        self.a.log.entries.clear()
        self.assertEqual(b"lost", self.get(address).body)

    def test_a_picture_that_is_lost_is_fetched_again(self) -> None:
        data = picture(200, 100)
        address = self.upload(data)
        self.get(address)
        name = sha256(data).hexdigest()
        (self.folder(self.a) / "files" / name[:2] / name[2:4] / name).unlink()
        self.buckets["a.example"].objects.clear()
        # Of most pictures nobody ever asks for more than thumbnails.
        path, query = f"{THUMBNAIL}/{address}", {"width": 32, "height": 32}
        self.refused(self.call(self.a, path, self.alice, query), 404, "M_NOT_FOUND")
        self.assertEqual(["a file cannot be read"], self.a.log.events("error"))
        self.a.log.entries.clear()
        self.assertEqual(200, self.call(self.a, path, self.alice, query).status)

    def test_a_thumbnail_that_vanishes_is_no_file_that_is_lost(self) -> None:
        address = self.upload(picture(200, 100))
        path, query = f"{THUMBNAIL}/{address}", {"width": 32, "height": 32}
        self.assertEqual(200, self.call(self.a, path, self.alice, query).status)
        find = MediaFiles.find_thumbnail

        def vanish(files: MediaFiles, name: str, variant: str) -> Path | None:
            found = find(files, name, variant)
            if found is not None:
                found.unlink()
            return found

        patched = self.patch(MediaFiles, "find_thumbnail", vanish)
        self.refused(self.call(self.a, path, self.alice, query), 503, "M_UNKNOWN")
        self.assertEqual(["a file cannot be read"], self.a.log.events("error"))
        self.a.log.entries.clear()
        patched.restore()
        self.assertIsNotNone(self.row(address))
        self.assertEqual(200, self.call(self.a, path, self.alice, query).status)


@in_a_bucket_too
class Ours(RemoteMediaCase):
    """What b's media endpoints say to a."""

    def ask(self, path: str) -> tuple[PeerResponse, bytes]:
        stranger = self.stranger
        response = self.net.wait(stranger.start("b.example", "GET", path))
        pieces: list[bytes] = []
        reader = MultipartReader(pieces.append, 10 * LIMIT)
        reader.feed(response.body)
        self.described = reader.close(response.headers["content-type"])
        return response, b"".join(pieces)

    def setUp(self) -> None:
        super().setUp()
        self.stranger = self.net.stranger("s.example")

    def test_download(self) -> None:
        for size in (0, 10, 131_072, 131_073, 600_000):
            data = os.urandom(size)
            address = self.upload(data, "text/html", "a.html")
            response, body = self.ask(f"{SIGNED}/download/{address.partition('/')[2]}")
            self.assertEqual((200, data), (response.status, body))
            self.assertEqual(str(len(response.body)), response.headers["content-length"])
            self.assertEqual("text/html", self.described.content_type)
            self.assertEqual('attachment; filename="a.html"', self.described.disposition)

    def test_thumbnail(self) -> None:
        media_id = self.upload(picture(400, 300)).partition("/")[2]
        path = f"{SIGNED}/thumbnail/{media_id}"
        response, body = self.ask(f"{path}?width=32&height=32&method=crop")
        self.assertEqual((200, "image/jpeg"), (response.status, self.described.content_type))
        self.assertTrue(body.startswith(b"\xff\xd8"))
        # One that is not smaller is the file itself.
        _, body = self.ask(f"{path}?width=800&height=600")
        self.assertEqual((picture(400, 300), "image/png"), (body, self.described.content_type))
        for query, status, errcode in (
            ("", 400, "M_MISSING_PARAM"),
            ("?width=32", 400, "M_MISSING_PARAM"),
            ("?width=x&height=1", 400, "M_INVALID_PARAM"),
            ("?width=-1&height=1", 400, "M_INVALID_PARAM"),
            ("?width=1&height=1&method=stretch", 400, "M_INVALID_PARAM"),
        ):
            status_is, json = self.stranger.ask("b.example", "GET", path + query)
            self.assertEqual((status, errcode), (status_is, json["errcode"]), query)
        large = self.upload(picture(1_100, 1_000)).partition("/")[2]
        asked = self.stranger.ask("b.example", "GET", f"{SIGNED}/thumbnail/{large}?width=32&height=32")
        self.assertEqual((413, "M_TOO_LARGE"), (asked[0], asked[1]["errcode"]))

    def test_refused(self) -> None:
        made = self.call(self.b, CREATE, self.bob, method="POST").json["content_uri"].rpartition("/")[2]
        for path, status, errcode in (
            ("none", 404, "M_NOT_FOUND"),
            ("..%2fetc", 400, "M_INVALID_PARAM"),
            (f"{made}?timeout_ms=0", 504, "M_NOT_YET_UPLOADED"),
            (f"{made}?timeout_ms=-1", 400, "M_INVALID_PARAM"),
        ):
            asked = self.stranger.ask("b.example", "GET", f"{SIGNED}/download/{path}")
            self.assertEqual((status, errcode), (asked[0], asked[1]["errcode"]))
        media_id = self.upload(b"x").partition("/")[2]
        for path in (f"{SIGNED}/download/{media_id}", f"{SIGNED}/thumbnail/{media_id}"):
            self.refused(self.call(self.b, path), 401, "M_UNAUTHORIZED")
            self.refused(self.call(self.b, path, self.bob), 401, "M_UNAUTHORIZED")

    def test_not_what_was_fetched_from_others(self) -> None:
        """A server gives its own files alone, or it would be a way around its users' servers."""
        address = self.call(self.a, UPLOAD, self.alice, None, {}, "POST", b"a's").json["content_uri"]
        self.call(self.b, f"{DOWNLOAD}/{address.removeprefix('mxc://')}", self.bob)
        asked = self.stranger.ask("b.example", "GET", f"{SIGNED}/download/{address.rpartition('/')[2]}")
        self.assertEqual((404, "M_NOT_FOUND"), (asked[0], asked[1]["errcode"]))


class OldServers(RemoteMediaCase):
    """# spec: server-server-api#content-repository (the deprecated endpoints)"""

    def test_asked_the_old_way(self) -> None:
        headers = {"content-type": "text/plain", "content-disposition": 'inline; filename="a.txt"'}
        for number, refused in enumerate((404, 405, 400)):
            self.answers(refusal(refused, "M_UNRECOGNIZED"), PeerResponse(200, b"old", headers))
            found = self.get(f"b.example/m{number}", {"timeout_ms": 100})
            self.assertEqual((200, b"old"), (found.status, found.body))
            self.assertEqual('inline; filename="a.txt"', found.headers["content-disposition"])
            asked = self.net.sent("/media/")[-1].request
            self.assertEqual(
                f"/_matrix/media/v3/download/b.example/m{number}?allow_remote=false&timeout_ms=100", asked.uri
            )

    def test_only_where_there_is_no_newer_way(self) -> None:
        for response, status, errcode in (
            (refusal(404, "M_NOT_FOUND"), 404, "M_NOT_FOUND"),
            (refusal(403, "M_FORBIDDEN"), 404, "M_NOT_FOUND"),
            (PeerResponse(404, b"nginx"), 404, "M_NOT_FOUND"),
            (refusal(504, "M_NOT_YET_UPLOADED"), 504, "M_NOT_YET_UPLOADED"),
            (refusal(502, "M_TOO_LARGE"), 502, "M_TOO_LARGE"),
            (refusal(429, "M_LIMIT_EXCEEDED"), 429, "M_LIMIT_EXCEEDED"),
            (refusal(500, "M_UNRECOGNIZED"), 502, "M_UNKNOWN"),
            (PeerResponse(302, b"", {"location": "https://evil.example"}), 502, "M_UNKNOWN"),
            (Unreachable("gone"), 502, "M_UNKNOWN"),
        ):
            before = len(self.net.sent("/media/"))
            self.answers(response)
            self.refused(self.get("b.example/m"), status, errcode)
            self.assertEqual(before + 1, len(self.net.sent("/media/")))

    def test_too_large_the_old_way(self) -> None:
        self.answers(refusal(404, "M_UNRECOGNIZED"), PeerResponse(200, b"x" * (LIMIT + 1), {}))
        self.refused(self.get("b.example/m"), 502, "M_TOO_LARGE")
        self.assertEqual(([], []), (self.stored(self.a), self.stored(self.a, "incoming")))


class Hostile(RemoteMediaCase):
    def nothing_stayed(self) -> None:
        self.assertEqual(([], []), (self.stored(self.a), self.stored(self.a, "incoming")))
        self.assertIsNone(self.row("b.example/m"))

    def test_bodies_that_make_no_sense(self) -> None:
        good = parts(b"data")
        for response in (
            PeerResponse(200, b"{}", {"content-type": "application/json"}),
            PeerResponse(200, b"", {}),
            PeerResponse(200, good, {}),
            PeerResponse(200, good, {"content-type": "multipart/mixed"}),
            mixed(good, "other"),
            mixed(good[:-10]),
            PeerResponse(200, good, {"content-type": "text/plain; boundary=b0"}),
            mixed(parts(b"x" * 400_000)[:-30]),
            mixed(b"--b0\r\n" + b"x" * 100_000),
            mixed(b"x" * 500_000),
            mixed(parts(b"data", b"Content-Length: 5")),
            mixed(parts(b"data", b"Content-Transfer-Encoding: base64")),
            mixed(parts(b"data", b"no header")),
        ):
            self.answers(response)
            self.refused(self.get("b.example/m"), 502, "M_UNKNOWN")
            self.nothing_stayed()

    def test_files_that_are_too_large(self) -> None:
        self.answers(mixed(parts(b"x" * (LIMIT + 1))))
        self.refused(self.get("b.example/m"), 502, "M_TOO_LARGE")
        self.nothing_stayed()
        # The limit is that in force when it comes, and holds for what is around the file too.
        self.configure(self.a, max_upload_bytes=10)
        self.answers(mixed(parts(b"x" * 10)))
        self.assertEqual(200, self.get("b.example/m").status)
        self.answers(mixed(parts(b"x") + b"y" * 1_000_000))
        self.refused(self.get("b.example/n"), 502, "M_TOO_LARGE")
        # A server is not down for having large files, or for files that come slowly: others are still spoken with.
        self.assertFalse(self.a.app.peering.health.is_down(ServerName("b.example")))

    def test_what_it_says_of_the_file(self) -> None:
        for number, (headers, content_type, disposition) in enumerate(
            (
                (b"", "application/octet-stream", "attachment"),
                (b"Content-Type: text/html", "text/html", "attachment"),
                (b"Content-Type: evil\x01", "application/octet-stream", "attachment"),
                (
                    b'Content-Type: text/plain\r\nContent-Disposition: inline; filename="a\rb"',
                    "text/plain",
                    None,
                ),
                (
                    b"Content-Type: image/png\r\nContent-Disposition: x; filename*=utf-8''%00",
                    "image/png",
                    "inline",
                ),
                (
                    b"Content-Type: image/png\r\nContent-Disposition: \xff\xfe; filename=\xff",
                    "image/png",
                    None,
                ),
                (
                    b"Content-Disposition: a; filename=" + b"n" * 5_000,
                    "application/octet-stream",
                    "attachment",
                ),
            )
        ):
            self.answers(mixed(parts(b"data%d" % number, headers)))
            found = self.get(f"b.example/h{number}")
            self.assertEqual((200, content_type), (found.status, found.headers["content-type"]))
            if disposition is not None:
                self.assertEqual(disposition, found.headers["content-disposition"])

    def test_places_that_are_not_looked_at(self) -> None:
        for location in (
            b"",
            b"http://cdn.example/x",
            b"file:///etc/passwd",
            b"/x",
            b"https://\xc3\xa4.example/",
        ):
            self.answers(mixed(parts(b"", b"Location: " + location)))
            self.refused(self.get("b.example/m"), 502, "M_UNKNOWN")
            self.nothing_stayed()

    def test_slow_ones_hold_up_nobody_else(self) -> None:
        silent = self.net.stranger("slow.example")
        silent.answers["GET", SIGNED] = lambda _: None
        waiting = [
            self.a.start("GET", f"{DOWNLOAD}/slow.example/m{number}", None, self.alice)
            for number in range(FETCHES_EACH + 3)
        ]
        self.net.settle()
        self.assertEqual(FETCHES_EACH, len(self.net.sent(SIGNED, destination="slow.example")))
        self.assertEqual(200, self.get(self.upload(b"x")).status)
        # A file that does not begin to come is given up, and the next ones have their turn.
        for one in waiting:
            self.refused(self.net.wait(one), 502, "M_UNKNOWN")
        self.assertEqual(FETCHES_EACH + 3, len(self.net.sent(SIGNED, destination="slow.example")))
        self.assertFalse(self.a.app.peering.health.is_down(ServerName("slow.example")))

    def test_a_disk_that_is_full(self) -> None:
        address = self.upload(os.urandom(600_000))
        folder = self.folder(self.a)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "incoming").write_text("in the way")
        self.refused(self.get(address), 503, "M_UNKNOWN")
        self.assertEqual(["a file of another server could not be stored"], self.a.log.events("error"))
        self.a.log.entries.clear()
        (folder / "incoming").unlink()
        self.assertEqual(200, self.get(address).status)

    def test_the_server_stops_meanwhile(self) -> None:
        silent = self.net.stranger("slow.example")
        silent.answers["GET", SIGNED] = lambda _: None
        waiting = self.a.start("GET", f"{DOWNLOAD}/slow.example/m", None, self.alice)
        self.net.settle()
        self.net.wait(Deferred.fromCoroutine(self.a.app.stop()))
        self.assertEqual(503, self.net.wait(waiting).status)
        self.a.restart()
