"""Key backups. spec: client-server-api#server-side-key-backups"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

from sqlalchemy import select
from twisted.internet.defer import Deferred

from homeserver.db.schema.key_backups import backed_up_keys
from homeserver.db.statements import statement
from homeserver.e2ee import backup as domain
from homeserver.http.errors import ClientGone
from homeserver.store import key_backups as store
from homeserver.stream import chores as chores_module
from homeserver.stream.chores import standard_chores
from tests.api.rooms import V3, RoomsCase
from tests.support.databases import on_each_database

KEYS = f"{V3}/room_keys/keys"
VERSION = f"{V3}/room_keys/version"
ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"
AUTH = {"public_key": "abcdefg", "signatures": {"@alice:test.example": {"ed25519:PHONE": "sig"}}}
ROOM, OTHER = "!room:test.example", "!other:elsewhere.example"
SESSION = "s/ess+ion"


def key(first: int = 0, forwarded: int = 0, *, verified: bool = False, data: Any = None) -> dict[str, Any]:
    return {
        "first_message_index": first,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": data if data is not None else {"ciphertext": "c", "mac": "m", "ephemeral": "e"},
    }


class BackupCase(RoomsCase):
    """Alice and her backups."""

    def new(self, token: str | None = None, **change: Any) -> str:
        body = {"algorithm": ALGORITHM, "auth_data": AUTH, **change}
        version: str = self.app.ok("POST", VERSION, body, token or self.alice)["version"]
        return version

    def path(self, room_id: str | None = None, session_id: str | None = None) -> str:
        parts = [KEYS] + [quote(one, safe="") for one in (room_id, session_id) if one is not None]
        return "/".join(parts)

    def send(self, method: str, version: Any, body: Any = None, *where: str, token: str = "") -> Any:
        query = {} if version is None else {"version": version}
        return self.app.call(method, self.path(*where), body, token or self.alice, query)

    def done(self, method: str, version: str, body: Any = None, *where: str, token: str = "") -> Any:
        status, json = self.send(method, version, body, *where, token=token)
        self.assertEqual(200, status, json)
        return json

    def put(self, version: str, rooms: Any) -> Any:
        return self.done("PUT", version, {"rooms": {name: {"sessions": one} for name, one in rooms.items()}})

    def got(self, version: str) -> Any:
        rooms = self.done("GET", version)["rooms"]
        return {room_id: room["sessions"] for room_id, room in rooms.items()}

    def sweep(self, most: int = 2) -> None:
        """The chore that takes dropped keys away, a few at a time."""
        core = self.app.app.core
        chores = {one.name: one for one in standard_chores(core.committer, core.around.clock)}
        with patch.object(chores_module, "SWEEP_AT_ONCE", most):
            self.app.wait(_started(chores["take away dropped key backups"].run()))

    def count_rows(self) -> int:
        """Keys that there are, told or not."""
        return len(self.app.wait(self.app.database.read(_all_keys)))


@on_each_database
class Versions(BackupCase):
    def test_made_and_read(self) -> None:
        self.assert_refused(self.app.call("GET", VERSION, None, self.alice), 404, "M_NOT_FOUND")
        version = self.new()
        want = {"algorithm": ALGORITHM, "auth_data": AUTH, "count": 0, "etag": "0", "version": version}
        self.assertEqual(want, self.app.ok("GET", VERSION, None, self.alice))
        self.assertEqual(want, self.app.ok("GET", f"{VERSION}/{version}", None, self.alice))
        # Of others nothing is known.
        self.assert_refused(self.app.call("GET", VERSION, None, self.bob), 404, "M_NOT_FOUND")
        self.assert_refused(self.app.call("GET", f"{VERSION}/{version}", None, self.bob), 404, "M_NOT_FOUND")
        self.assertEqual(401, self.app.call("GET", VERSION)[0])

    def test_the_newest_one_is_current_and_old_ones_stay_readable(self) -> None:
        old = self.new()
        self.put(old, {ROOM: {SESSION: key()}})
        new = self.new(auth_data={"public_key": "other"})
        self.assertNotEqual(old, new)
        found = self.app.ok("GET", VERSION, None, self.alice)
        self.assertEqual(
            (new, {"public_key": "other"}, 0), (found["version"], found["auth_data"], found["count"])
        )
        self.assertEqual(1, self.app.ok("GET", f"{VERSION}/{old}", None, self.alice)["count"])
        self.assertEqual({ROOM: {SESSION: key()}}, self.got(old))
        self.assertEqual({}, self.got(new))

    def test_update(self) -> None:
        version = self.new()
        self.put(version, {ROOM: {SESSION: key()}})
        body = {"algorithm": ALGORITHM, "auth_data": {"public_key": "x", "signatures": {"a": "\0ü"}}}
        self.assertEqual({}, self.app.ok("PUT", f"{VERSION}/{version}", body, self.alice))
        self.app.ok("PUT", f"{VERSION}/{version}", {**body, "version": version}, self.alice)
        found = self.app.ok("GET", VERSION, None, self.alice)
        self.assertEqual((body["auth_data"], 1), (found["auth_data"], found["count"]))
        for change in ({"algorithm": "m.other"}, {"version": "17"}):
            answer = self.app.call("PUT", f"{VERSION}/{version}", {**body, **change}, self.alice)
            self.assert_refused(answer, 400, "M_INVALID_PARAM")
        for name in ("17", "0", "01", "x", "-1", "9" * 40, "१"):
            answer = self.app.call("PUT", f"{VERSION}/{quote(name)}", body, self.alice)
            self.assert_refused(answer, 404, "M_NOT_FOUND")
        self.assert_refused(self.app.call("PUT", f"{VERSION}/{version}", body, self.bob), 404, "M_NOT_FOUND")

    def test_deleted(self) -> None:
        first, second = self.new(), self.new()
        self.put(second, {ROOM: {SESSION: key()}})
        self.assertEqual({}, self.app.ok("DELETE", f"{VERSION}/{second}", None, self.alice))
        # Once more is no error; what never was is one.
        self.app.ok("DELETE", f"{VERSION}/{second}", None, self.alice)
        for name in ("3", "0", "x"):
            answer = self.app.call("DELETE", f"{VERSION}/{name}", None, self.alice)
            self.assert_refused(answer, 404, "M_NOT_FOUND")
        for answer in (
            self.app.call("GET", f"{VERSION}/{second}", None, self.alice),
            self.send("GET", second),
            self.send("GET", second, None, ROOM, SESSION),
            self.send("PUT", second, {"rooms": {}}),
            self.send("DELETE", second),
        ):
            self.assert_refused(answer, 404, "M_NOT_FOUND")
        # The one before it is the newest now, and its number is not given again.
        self.assertEqual(first, self.app.ok("GET", VERSION, None, self.alice)["version"])
        self.put(first, {ROOM: {SESSION: key(7)}})
        third = self.new()
        self.assertNotIn(third, (first, second))
        self.app.ok("DELETE", f"{VERSION}/{second}", None, self.alice)
        self.app.ok("DELETE", f"{VERSION}/{first}", None, self.alice)
        self.app.ok("DELETE", f"{VERSION}/{third}", None, self.alice)
        self.assert_refused(self.app.call("GET", VERSION, None, self.alice), 404, "M_NOT_FOUND")
        self.assertNotIn(self.new(), (first, second, third))
        self.sweep()
        self.assertEqual(0, self.count_rows())

    def test_refused(self) -> None:
        good = {"algorithm": ALGORITHM, "auth_data": AUTH}
        body: Any
        for body in (
            {},
            {"algorithm": ALGORITHM},
            {"auth_data": AUTH},
            {**good, "algorithm": 1},
            {**good, "auth_data": []},
            {**good, "auth_data": None},
        ):
            self.assert_refused(self.app.call("POST", VERSION, body, self.alice), 400, "M_BAD_JSON")
        self.assert_refused(self.app.call("POST", VERSION, b"{", self.alice), 400, "M_NOT_JSON")
        for algorithm in ("", "x\0y", "x" * 256):
            answer = self.app.call("POST", VERSION, {**good, "algorithm": algorithm}, self.alice)
            self.assert_refused(answer, 400, "M_INVALID_PARAM")
        large = {"x": "x" * domain.MAX_AUTH_DATA_BYTES}
        answer = self.app.call("POST", VERSION, {**good, "auth_data": large}, self.alice)
        self.assert_refused(answer, 413, "M_TOO_LARGE")
        with patch.object(store, "MAX_BACKUPS", 2):
            first = self.new()
            self.new()
            self.assert_refused(
                self.app.call("POST", VERSION, good, self.alice), 403, "M_USER_LIMIT_EXCEEDED"
            )
            self.app.ok("DELETE", f"{VERSION}/{first}", None, self.alice)
            self.new()

    def test_gone_with_the_account(self) -> None:
        version = self.new(self.bob)
        self.done("PUT", version, {"sessions": {SESSION: key()}}, ROOM, token=self.bob)
        identifier = {"type": "m.id.user", "user": "bob"}
        auth = {"type": "m.login.password", "identifier": identifier, "password": "correct horse"}
        self.app.ok("POST", f"{V3}/account/deactivate", {"auth": auth}, self.bob)
        self.sweep()
        self.assertEqual(0, self.count_rows())
        bob = self.app.app.core.interner.known_user("@bob:test.example")
        assert bob is not None
        # A request that was on its way.
        making = self.app.app.core.committer.work(store.create_backup, bob, 9_000_000, ALGORITHM, "{}")
        with self.assertRaises(store.NoAccountError):
            self.app.wait(making)


def _all_keys(tx: Any) -> Any:
    return tx.all(statement(select(backed_up_keys.c.session_id)))


@on_each_database
class Keys(BackupCase):
    def setUp(self) -> None:
        super().setUp()
        self.version = self.new()

    def test_whole_room_and_session(self) -> None:
        told = self.put(self.version, {ROOM: {"a": key(1), SESSION: key(2)}, OTHER: {"a": key(3)}})
        self.assertEqual((3, "1"), (told["count"], told["etag"]))
        told = self.done("PUT", self.version, {"sessions": {"b": key(4), "a": key(9)}}, OTHER)
        self.assertEqual((4, "2"), (told["count"], told["etag"]))
        told = self.done("PUT", self.version, key(5, data={"n\0": ["ü", 1.5, None]}), OTHER, SESSION)
        self.assertEqual((5, "3"), (told["count"], told["etag"]))
        other = {"a": key(3), "b": key(4), SESSION: key(5, data={"n\0": ["ü", 1.5, None]})}
        self.assertEqual({ROOM: {"a": key(1), SESSION: key(2)}, OTHER: other}, self.got(self.version))
        self.assertEqual({"sessions": other}, self.done("GET", self.version, None, OTHER))
        self.assertEqual(key(2), self.done("GET", self.version, None, ROOM, SESSION))
        found = self.app.ok("GET", VERSION, None, self.alice)
        self.assertEqual((5, "3"), (found["count"], found["etag"]))

    def test_of_what_is_not_there(self) -> None:
        self.assertEqual({"rooms": {}}, self.done("GET", self.version))
        self.assertEqual({"sessions": {}}, self.done("GET", self.version, None, ROOM))
        answer = self.send("GET", self.version, None, ROOM, SESSION)
        self.assert_refused(answer, 404, "M_NOT_FOUND")
        self.assertEqual({"count": 0, "etag": "0"}, self.done("DELETE", self.version))
        self.assertEqual({"count": 0, "etag": "0"}, self.done("DELETE", self.version, None, ROOM))
        self.assertEqual({"count": 0, "etag": "0"}, self.done("DELETE", self.version, None, ROOM, SESSION))
        self.assertEqual({"count": 0, "etag": "0"}, self.put(self.version, {}))
        self.assertEqual({"count": 0, "etag": "0"}, self.put(self.version, {ROOM: {}}))

    def test_the_better_key_stays(self) -> None:
        # Each is better than the one before it.
        ascending = [
            key(9, 9),
            key(9, 8),
            key(8, 9),
            key(9, 9, verified=True),
            key(9, 3, verified=True),
            key(2, 7, verified=True),
        ]
        etag = ""
        for number, better in enumerate(ascending):
            for worse in ascending[: number + 1]:
                self.done("PUT", self.version, better, ROOM, SESSION)
                etag = self.app.ok("GET", VERSION, None, self.alice)["etag"]
                told = self.done("PUT", self.version, worse, ROOM, SESSION)
                self.assertEqual({"count": 1, "etag": etag}, told)
                self.assertEqual(better, self.done("GET", self.version, None, ROOM, SESSION))
            self.assertEqual(str(number + 1), etag)

    def test_only_into_the_newest(self) -> None:
        self.put(self.version, {ROOM: {SESSION: key()}})
        newest = self.new()
        for where, body in (
            ((), {"rooms": {ROOM: {"sessions": {"x": key()}}}}),
            ((ROOM,), {"sessions": {"x": key()}}),
            ((ROOM, SESSION), key()),
        ):
            status, json = self.send("PUT", self.version, body, *where)
            self.assert_refused((status, json), 403, "M_WRONG_ROOM_KEYS_VERSION")
            self.assertEqual(newest, json["current_version"])
            for version in ("17", "x", "01"):
                self.assert_refused(self.send("PUT", version, body, *where), 404, "M_NOT_FOUND")
            self.assert_refused(self.send("PUT", None, body, *where), 400, "M_MISSING_PARAM")
            for method in ("GET", "DELETE"):
                self.assert_refused(self.send(method, "17", None, *where), 404, "M_NOT_FOUND")
                self.assert_refused(self.send(method, "x", None, *where), 404, "M_NOT_FOUND")
                self.assert_refused(self.send(method, None, None, *where), 400, "M_MISSING_PARAM")
        # Another user has no such backup.
        self.assert_refused(self.send("GET", newest, token=self.bob), 404, "M_NOT_FOUND")
        self.assert_refused(self.send("PUT", newest, {"rooms": {}}, token=self.bob), 404, "M_NOT_FOUND")
        self.assertEqual({ROOM: {SESSION: key()}}, self.got(self.version))
        # Keys of old ones can be deleted.
        self.assertEqual(0, self.done("DELETE", self.version)["count"])

    def test_deleted(self) -> None:
        rooms = {ROOM: {"a": key(), "b": key()}, OTHER: {"a": key(), "b": key()}}
        self.put(self.version, rooms)
        told = self.done("DELETE", self.version, None, ROOM, "a")
        self.assertEqual({"count": 3, "etag": "2"}, told)
        self.assertEqual({ROOM: {"b": key()}, OTHER: rooms[OTHER]}, self.got(self.version))
        self.assertEqual({"count": 1, "etag": "3"}, self.done("DELETE", self.version, None, OTHER))
        self.assertEqual({ROOM: {"b": key()}}, self.got(self.version))
        self.assertEqual({"count": 0, "etag": "4"}, self.done("DELETE", self.version))
        self.assertEqual({}, self.got(self.version))
        told = self.put(self.version, rooms)
        self.assertEqual({"count": 4, "etag": "5"}, told)
        self.assertEqual(5, self.count_rows())
        self.sweep()
        self.assertEqual(4, self.count_rows())
        self.assertEqual(rooms, self.got(self.version))
        self.app.restart()
        self.assertEqual(rooms, self.got(self.version))

    def test_refused(self) -> None:
        good = key()
        one: Any
        for change in (
            {"first_message_index": -1},
            {"first_message_index": 2**53},
            {"first_message_index": 2**70},
            {"first_message_index": "1"},
            {"first_message_index": True},
            {"forwarded_count": 1.5},
            {"forwarded_count": None},
            {"is_verified": 1},
            {"session_data": "x"},
            {"session_data": None},
        ):
            for where, body in (
                ((ROOM, SESSION), {**good, **change}),
                ((ROOM,), {"sessions": {"s": {**good, **change}}}),
                ((), {"rooms": {ROOM: {"sessions": {"good": good, "s": {**good, **change}}}}}),
            ):
                self.assert_refused(self.send("PUT", self.version, body, *where), 400, "M_BAD_JSON")
        for one in ({}, {"rooms": []}, {"rooms": {ROOM: []}}, {"rooms": {ROOM: {"sessions": []}}}):
            self.assert_refused(self.send("PUT", self.version, one), 400, "M_BAD_JSON")
        for one in ({}, {"sessions": 1}):
            self.assert_refused(self.send("PUT", self.version, one, ROOM), 400, "M_BAD_JSON")
        for name in good:
            body = {field: value for field, value in good.items() if field != name}
            self.assert_refused(self.send("PUT", self.version, body, ROOM, SESSION), 400, "M_BAD_JSON")
        for name in ("", "x" * 256, "x\0y"):
            body = {"sessions": {"good": good, name: good}}
            self.assert_refused(self.send("PUT", self.version, body, ROOM), 400, "M_INVALID_PARAM")
        for name in ("", "room", "@a:test.example", "!x\0y:test.example", "!" + "x" * 300):
            body = {"rooms": {ROOM: {"sessions": {"good": good}}, name: {"sessions": {"s": good}}}}
            status, json = self.send("PUT", self.version, body)
            self.assertEqual((400, "M_INVALID_PARAM"), (status, json["errcode"]), name)
        deep: Any = {}
        for _ in range(200):
            deep = {"": deep}
        self.assert_refused(self.send("PUT", self.version, key(data=deep), ROOM, SESSION), 400, "M_BAD_JSON")
        surrogate = (
            b'{"first_message_index":0,"forwarded_count":0,"is_verified":true,"session_data":{"x":"\\ud800"}}'
        )
        answer = self.send("PUT", self.version, surrogate, ROOM, SESSION)
        self.assertEqual(400, answer[0])
        large = key(data={"x": "x" * domain.MAX_SESSION_BYTES})
        self.assert_refused(self.send("PUT", self.version, large, ROOM, SESSION), 413, "M_TOO_LARGE")
        # Nothing of all that came in.
        self.assertEqual({}, self.got(self.version))

    def test_bounded(self) -> None:
        self.put(self.version, {ROOM: {"a": key()}})
        size = self.size()
        with patch.object(store, "MAX_BYTES_PER_USER", 3 * size):
            second = self.new()
            self.put(second, {ROOM: {"a": key(), "b": key()}})
            body = {"sessions": {"c": key()}}
            self.assert_refused(self.send("PUT", second, body, ROOM), 403, "M_USER_LIMIT_EXCEEDED")
            # What takes no more than what it replaces still goes in.
            self.put(second, {ROOM: {"b": key(verified=True)}})
            self.done("DELETE", self.version)
            self.put(second, {ROOM: {"c": key()}})

    def size(self) -> int:
        alice = self.app.app.core.interner.known_user("@alice:test.example")
        assert alice is not None
        backup = self.app.wait(self.app.database.read(store.load_backup, alice))
        assert backup is not None
        return backup.size


@on_each_database
class LargeBackups(BackupCase):
    def setUp(self) -> None:
        super().setUp()
        self.version = self.new()
        names = [f"session {number:05}" for number in range(700)]
        self.rooms: dict[str, dict[str, Any]] = {
            ROOM: {name: key() for name in names[:251]},
            OTHER: {name: key() for name in names},
            "!a:test.example": {"x": key(3)},
        }
        told = self.put(self.version, self.rooms)
        self.assertEqual({"count": 952, "etag": "1"}, told)

    def test_in_pieces(self) -> None:
        """Wherever the pages end."""
        for page in (1, 7, 250, 251, 476, 952, 2_000):
            with patch.object(domain, "PAGE", page):
                self.assertEqual(self.rooms, self.got(self.version))
        with patch.object(domain, "PAGE", 251):
            self.assertEqual({"sessions": self.rooms[ROOM]}, self.done("GET", self.version, None, ROOM))
            self.assertEqual({"sessions": {}}, self.done("GET", self.version, None, "!b:test.example"))

    def test_half_a_backup_is_not_the_whole(self) -> None:
        """Deleted while it is on its way."""

        async def read() -> None:
            alice = self.app.app.core.interner.known_user("@alice:test.example")
            requester = _Requester(alice or 0)
            backups = self.app.app.services.encryption.backups
            pages = await backups.get_keys(requester, self.version, None)
            assert not isinstance(pages, bytes)
            count = 0
            async for _ in pages:
                count += 1
                if count == 2:
                    await backups.delete_keys(requester, self.version)

        with self.assertRaises(ClientGone):
            self.app.wait(_started(read()))

    def test_one_commit(self) -> None:
        before = self.app.app.core.committer.batches
        self.put(self.version, {ROOM: {f"more {number}": key() for number in range(2_000)}})
        self.assertEqual(1, self.app.app.core.committer.batches - before)


def _started(work: Any) -> Any:
    return Deferred.fromCoroutine(work)


@dataclass(frozen=True)
class _Requester:
    user_nid: int
    user_id: str = "@alice:test.example"
    device_nid: int = 0
    device_id: str | None = None
