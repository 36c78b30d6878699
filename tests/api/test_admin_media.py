"""Administrators quarantine and delete media: docs/admin-api.md."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from homeserver.media.preview import KEEP_MS
from homeserver.media.sweep import ORPHAN_AGE_S
from homeserver.store import media_admin
from homeserver.store.media import Upload, insert_remote
from homeserver.store.previews import keep_preview
from tests.api.administration import AdminCase
from tests.api.media import DOWNLOAD, OLD, UPLOAD
from tests.api.talk import user
from tests.support.databases import on_each_database

MEDIA = "/v1/media"


class MediaCase(AdminCase):
    def upload(self, name: str, data: bytes, file_name: str | None = None) -> str:
        """`server/id` of a new file."""
        query = None if file_name is None else {"filename": file_name}
        answer = self.app.answer(
            "POST", UPLOAD, data, self.tokens[name], query, {"Content-Type": "text/plain"}
        )
        uri: str = answer.json["content_uri"]
        self.app.advance(1)
        return uri.removeprefix("mxc://")

    def fill(self, name: str, data: bytes) -> str:
        """`server/id` of an address that was made before its file came."""
        made = self.made(name)
        self.put(name, made, data)
        return made

    def made(self, name: str) -> str:
        """`server/id` of an address whose file is still to come."""
        uri: str = self.app.ok("POST", "/_matrix/media/v1/create", {}, self.tokens[name])["content_uri"]
        return uri.removeprefix("mxc://")

    def put(self, name: str, made: str, data: bytes) -> None:
        self.assertEqual(200, self.app.answer("PUT", f"{UPLOAD}/{made}", data, self.tokens[name]).status)

    def remote(self, media_id: str, data_name: str) -> str:
        """A file of another server that is here."""
        upload = Upload(data_name, 3, "text/plain", None)
        now_ms = int(self.app.time.rightNow * 1000)
        self.app.wait(
            self.app.app.core.committer.work(insert_remote, "far.example", media_id, upload, now_ms)
        )
        return f"far.example/{media_id}"

    def shown(self, address: str, where: str = DOWNLOAD) -> int:
        query = {"allow_remote": "false"}
        return self.app.answer("GET", f"{where}/{address}", None, self.tokens["bob"], query).status

    def files(self) -> int:
        folder = self.app.config.data_dir / "media"
        return sum(1 for path in folder.rglob("*") if path.is_file() and len(path.name) > 40)


@on_each_database
class Quarantine(MediaCase):
    def test_one(self) -> None:
        address, same, other = (self.upload("alice", data) for data in (b"bad", b"bad", b"good"))
        self.assertEqual({}, self.does("POST", f"{MEDIA}/quarantine/{address}", {}))
        # The same under another address, too, and whatever comes after.
        for one in (address, same, self.upload("bob", b"bad")):
            self.assertEqual((404, 404), (self.shown(one), self.shown(one, OLD)))
        self.assertEqual(200, self.shown(other))
        self.assertEqual({}, self.does("POST", f"{MEDIA}/unquarantine/{address}", {}))
        for one in (address, same):
            self.assertEqual(200, self.shown(one))

    def test_what_comes_to_an_address_made_before(self) -> None:
        address = self.upload("alice", b"bad")
        self.does("POST", f"{MEDIA}/quarantine/{address}", {})
        self.assertEqual(404, self.shown(self.fill("bob", b"bad")))

    def test_an_address_that_was_quarantined_before_it_had_a_file(self) -> None:
        known = self.upload("alice", b"bad")
        address = self.made("bob")
        self.does("POST", f"{MEDIA}/quarantine/{address}", {})
        self.assertEqual(200, self.shown(known))
        self.put("bob", address, b"bad")
        self.assertEqual((404, 404), (self.shown(address), self.shown(known)))
        self.does("DELETE", f"{MEDIA}/{address}")
        self.assertEqual((404, 404), (self.shown(known), self.shown(self.upload("alice", b"bad"))))

    def test_what_was_deleted_stays_so(self) -> None:
        address = self.upload("alice", b"bad")
        self.does("POST", f"{MEDIA}/quarantine/{address}", {})
        self.does("DELETE", f"{MEDIA}/{address}")
        again = [
            self.upload("bob", b"bad"),
            self.fill("bob", b"bad"),
            self.remote("copy", sha256(b"bad").hexdigest()),
        ]
        self.assertEqual([404] * 3, [self.shown(one) for one in again])
        # So it is however often it comes and goes.
        self.does("DELETE", f"{MEDIA}/{again[0]}")
        again[0] = self.upload("bob", b"bad")
        self.assertEqual(404, self.shown(again[0]))
        # Until one of its addresses is released.
        self.does("POST", f"{MEDIA}/unquarantine/{again[1]}", {})
        again.append(self.upload("bob", b"bad"))
        self.assertEqual([200] * 4, [self.shown(one) for one in again])
        # What is deleted then may come again.
        self.does("DELETE", f"{MEDIA}/{again[3]}")
        self.assertEqual(200, self.shown(self.upload("alice", b"bad")))

    def test_of_another_server(self) -> None:
        address = self.remote("known", "x" * 64)
        self.does("POST", f"{MEDIA}/quarantine/{address}", {})
        self.does("POST", f"{MEDIA}/quarantine/far.example/unknown", {})
        for media_id in ("known", "unknown"):
            self.assertEqual(404, self.shown(f"far.example/{media_id}"))
        # It is remembered, and not fetched: nor is what has the same content.
        self.assertEqual(404, self.shown(self.remote("unknown", "y" * 64)))
        self.assertEqual(404, self.shown(self.remote("copy", "x" * 64)))
        self.does("POST", f"{MEDIA}/unquarantine/far.example/unknown", {})
        self.assertEqual({"deleted": 0}, self.does("POST", "/v1/purge_media_cache", {}, {"before_ts": 1}))

    def test_everything_of_a_user(self) -> None:
        hers = [self.upload("alice", data) for data in (b"one", b"two", b"two")]
        his = self.upload("bob", b"his")
        path = f"/v1/user/{user('alice')}/media/quarantine"
        self.assertEqual({"num_quarantined": 3}, self.does("POST", path, {}))
        self.assertEqual({"num_quarantined": 0}, self.does("POST", path, {}))
        self.assertEqual([404, 404, 404, 200], [self.shown(one) for one in (*hers, his)])
        self.assertEqual(3, self.does("DELETE", f"/v1/users/{user('alice')}/media")["total"])
        self.assertEqual([404, 404], [self.shown(self.upload("bob", data)) for data in (b"one", b"two")])
        self.refuses(404, "M_NOT_FOUND", "POST", f"/v1/user/{user('nobody')}/media/quarantine", {})

    def test_everything_in_a_room(self) -> None:
        self.patch(media_admin, "PIECE", 2)
        room_id, other_id = self.make_room(joined=("bob",)), self.make_room()
        one, two, three, four, avatar = (self.upload("alice", bytes([number])) for number in range(5))
        elsewhere = self.upload("alice", b"elsewhere")
        for content in (
            {"url": f"mxc://{one}", "info": {"thumbnail_url": f"mxc://{two}"}},
            {"file": {"url": f"mxc://{three}"}, "info": {"thumbnail_file": {"url": f"mxc://{four}"}}},
            {"url": "mxc://far.example/unknown"},
            {"url": 5, "info": [], "file": "x"},
            {"url": "mxc://nothing"},
            {"url": "mxc:///x/y"},
            {"body": f"mxc://{elsewhere}"},
        ):
            self.send("alice", room_id, {"msgtype": "m.file", "body": "file", **content})
        self.set_state("alice", room_id, "m.room.avatar", {"url": f"mxc://{avatar}"})
        self.send("alice", other_id, {"msgtype": "m.file", "body": "file", "url": f"mxc://{elsewhere}"})
        found = self.does("POST", f"/v1/room/{room_id}/media/quarantine", {})
        self.assertEqual({"num_quarantined": 6}, found)
        self.assertEqual([404] * 5, [self.shown(address) for address in (one, two, three, four, avatar)])
        self.assertEqual(200, self.shown(elsewhere))
        self.refuses(404, "M_NOT_FOUND", "POST", "/v1/room/!none:x.org/media/quarantine", {})

    def test_what_is_none(self) -> None:
        self.refuses(404, "M_NOT_FOUND", "POST", f"{MEDIA}/quarantine/test.example/none", {})
        self.refuses(400, "M_INVALID_PARAM", "POST", f"{MEDIA}/quarantine/test.example/..%2Fx", {})
        self.refuses(400, "M_INVALID_PARAM", "POST", f"{MEDIA}/quarantine/no%20name/x", {})
        self.does("POST", f"{MEDIA}/unquarantine/test.example/none", {})


@on_each_database
class Uploads(MediaCase):
    def uploads(self) -> str:
        return f"/v1/users/{user('alice')}/media"

    def names(self, **query: Any) -> list[str | None]:
        return [one["upload_name"] for one in self.does("GET", self.uploads(), None, query)["media"]]

    def test_lists(self) -> None:
        self.assertEqual({"media": [], "total": 0}, self.does("GET", self.uploads()))
        address = ""
        for name, size in (("b", 30), ("a", 10), ("c", 20)):
            address = self.upload("alice", b"x" * size, name)
        self.upload("bob", b"his", "his")
        self.app.ok("POST", "/_matrix/media/v1/create", {}, self.tokens["alice"])
        self.does("POST", f"{MEDIA}/quarantine/{address}", {})
        found = self.does("GET", self.uploads())
        self.assertEqual(3, found["total"])
        newest = found["media"][0]
        self.assertGreater(newest.pop("created_ts"), 10**12)
        expected = {
            "media_id": address.partition("/")[2],
            "media_type": "text/plain",
            "media_length": 20,
            "upload_name": "c",
            "last_access_ts": None,
            "quarantined_by": user("root"),
            "safe_from_quarantine": False,
        }
        self.assertEqual(expected, newest)
        self.assertEqual(["c", "a", "b"], self.names())
        self.assertEqual(["b", "a", "c"], self.names(order_by="created_ts"))
        self.assertEqual(["a", "c", "b"], self.names(order_by="media_length"))
        self.assertEqual(["c", "b", "a"], self.names(order_by="upload_name", dir="b"))
        first = self.does("GET", self.uploads(), None, {"limit": 2})
        self.assertEqual((2, ["b"]), (first["next_token"], self.names(**{"from": 2})))
        for order_by in (
            "media_id",
            "last_access_ts",
            "media_type",
            "quarantined_by",
            "safe_from_quarantine",
        ):
            for direction in ("f", "b"):
                self.assertEqual(3, len(self.names(order_by=order_by, dir=direction)))
        self.refuses(400, "M_INVALID_PARAM", "GET", self.uploads(), None, {"order_by": "x"})

    def test_one_is_deleted(self) -> None:
        address, same = self.upload("alice", b"bad"), self.upload("alice", b"bad")
        media_id = address.partition("/")[2]
        self.app.advance(ORPHAN_AGE_S + 10)
        found = self.does("DELETE", f"{MEDIA}/{address}")
        self.assertEqual({"deleted_media": [media_id], "total": 1}, found)
        self.assertEqual((404, 200), (self.shown(address), self.shown(same)))
        self.assertEqual(1, self.files())
        self.does("DELETE", f"{MEDIA}/{same}")
        self.assertEqual((404, 0), (self.shown(same), self.files()))
        self.refuses(404, "M_NOT_FOUND", "DELETE", f"{MEDIA}/{same}")
        self.refuses(400, "M_INVALID_PARAM", "DELETE", f"{MEDIA}/far.example/x")

    def test_a_young_file_stays_for_the_sweep(self) -> None:
        # Somebody may be uploading the same, and has not written down yet that it is there.
        address = self.upload("alice", b"bad")
        self.does("DELETE", f"{MEDIA}/{address}")
        self.assertEqual((404, 1), (self.shown(address), self.files()))

    def test_a_user_s_are_deleted(self) -> None:
        for name in ("a", "b", "c"):
            self.upload("alice", name.encode(), name)
        his = self.upload("bob", b"his")
        found = self.does("DELETE", self.uploads(), None, {"limit": 2, "order_by": "upload_name"})
        self.assertEqual(2, found["total"])
        self.assertEqual(["c"], self.names())
        self.assertEqual(1, self.does("DELETE", self.uploads())["total"])
        self.assertEqual({"deleted_media": [], "total": 0}, self.does("DELETE", self.uploads()))
        self.assertEqual(200, self.shown(his))

    def test_the_cache(self) -> None:
        self.remote("old", "x" * 64)
        then_ms = int(self.app.time.rightNow * 1000) + 1
        self.app.advance(10)
        self.remote("new", "y" * 64)
        mine = self.upload("alice", b"mine")
        path = "/v1/purge_media_cache"
        self.assertEqual({"deleted": 1}, self.does("POST", path, {}, {"before_ts": then_ms}))
        self.assertEqual({"deleted": 0}, self.does("POST", path, {}, {"before_ts": then_ms}))
        self.assertEqual({"deleted": 1}, self.does("POST", path, {}, {"before_ts": 2**50}))
        self.assertEqual(200, self.shown(mine))
        self.refuses(400, "M_MISSING_PARAM", "POST", path, {})
        self.refuses(400, "M_INVALID_PARAM", "POST", path, {}, {"before_ts": "x"})

    def test_pictures_of_previews_go_with_what_names_them(self) -> None:
        links = [self.preview(name) for name in ("old", "new")]
        then_ms = int(self.app.time.rightNow * 1000)
        path = "/v1/purge_media_cache"
        self.assertEqual([200, 200], [self.previewed(link) for link in links])
        self.assertEqual({"deleted": 1}, self.does("POST", path, {}, {"before_ts": then_ms}))
        # Fetched anew, where anybody is there.
        self.assertEqual([502, 200], [self.previewed(link) for link in links])
        self.assertEqual({"deleted": 1}, self.does("POST", path, {}, {"before_ts": then_ms + 1}))
        self.assertEqual([502, 502], [self.previewed(link) for link in links])

    def preview(self, name: str) -> str:
        """A link of which a preview is kept, with a picture."""
        self.app.advance(10)
        link, now_ms = f"https://blog.example/{name}", int(self.app.time.rightNow * 1000)
        key = sha256(link.encode()).hexdigest()
        image = (name, Upload("z" * 64, 3, "image/png", None))
        self.app.wait(
            self.app.app.core.committer.work(
                keep_preview, "test.example", key, b"{}", now_ms, now_ms + KEEP_MS, image
            )
        )
        return link

    def previewed(self, link: str) -> int:
        path = "/_matrix/client/v1/media/preview_url"
        return self.app.answer("GET", path, None, self.tokens["alice"], {"url": link}).status

    def test_nobody_else(self) -> None:
        address = self.upload("alice", b"x")
        for method, path in (
            ("POST", f"{MEDIA}/quarantine/{address}"),
            ("POST", f"{MEDIA}/unquarantine/{address}"),
            ("POST", f"/v1/user/{user('alice')}/media/quarantine"),
            ("POST", "/v1/room/!x:y.org/media/quarantine"),
            ("DELETE", f"{MEDIA}/{address}"),
            ("GET", self.uploads()),
            ("DELETE", self.uploads()),
            ("POST", "/v1/purge_media_cache?before_ts=1"),
        ):
            self.assert_refused(self.ask(method, path, {}, who="alice"), 403, "M_FORBIDDEN")
        self.assertEqual(200, self.shown(address))
