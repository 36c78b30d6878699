"""What becomes of a user's rooms when the account ends.

spec: client-server-api#post_matrixclientv3accountdeactivate
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from homeserver.db.errors import DatabaseUnavailable
from homeserver.http.errors import MatrixError, limit_exceeded
from homeserver.store.account_data import load_account_data, put_account_data, put_tag
from homeserver.store.profiles import load_fields, put_field
from homeserver.store.pushers import load_pushers
from homeserver.store.users import deactivate_account
from tests.api.rooms import ALICE, BOB, V3, RoomsCase

CONFIRMED = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}}


class Departure(RoomsCase):
    """Bob's account ends."""

    def setUp(self) -> None:
        super().setUp()
        self.joined = [self.create(preset="public_chat") for _ in range(3)]
        for room_id in self.joined:
            self.ok(self.bob, f"/join/{room_id}")
        self.invited = self.create(invite=[BOB])
        self.knocked = self.create(
            initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        )
        self.ok(self.bob, f"/knock/{self.knocked}")
        self.banned = self.create(preset="public_chat")
        self.ok(self.alice, f"/rooms/{self.banned}/ban", {"user_id": BOB})
        self.left = self.create(preset="public_chat")
        self.ok(self.bob, f"/join/{self.left}")
        self.ok(self.bob, f"/rooms/{self.left}/leave")
        self.present = [*self.joined, self.invited, self.knocked]

    def deactivate(self, **fields: Any) -> None:
        body = {"auth": {**CONFIRMED, "password": "correct horse"}, **fields}
        self.app.ok("POST", f"{V3}/account/deactivate", body, self.bob)

    def pump(self, seconds: float = 0) -> None:
        """Let what runs in the background come to its end."""
        self.app.advance(seconds)
        for _ in range(100):
            self.app.time.advance(0)

    def memberships(self) -> list[str | None]:
        return [self.membership(room_id, BOB) for room_id in self.present]

    def store_deactivation(self) -> None:
        """As by a process that ended before anybody had left anything."""
        bob = self.app.app.core.interner.known_user(BOB)
        assert bob is not None
        self.app.wait(self.app.database.write(_deactivate_alone, bob))

    def test_rooms_invites_and_knocks_are_left(self) -> None:
        before = len(self.events(self.left)), len(self.events(self.banned))
        self.deactivate()
        self.pump()
        self.assertEqual(["leave"] * 5, self.memberships())
        self.assertEqual("ban", self.membership(self.banned, BOB))
        self.assertEqual(before, (len(self.events(self.left)), len(self.events(self.banned))))
        for room_id in self.present:
            event = self.events(room_id)[-1]
            self.assertEqual(
                (BOB, BOB, {"membership": "leave"}), (event.sender, event.state_key, event.content)
            )
        self.assertEqual("join", self.membership(self.joined[0], ALICE))
        self.assertEqual(404, self.app.call("GET", f"{V3}/profile/{BOB}")[0])

    def test_what_comes_too_late_is_not_kept(self) -> None:
        """A request that was let in before the account ended may write after that."""
        core = self.app.app.core
        bob, room_nid = core.interner.known_user(BOB), core.interner.known_room(self.joined[0])
        assert bob is not None and room_nid is not None
        self.app.wait(core.committer.work(put_account_data, bob, 0, "org.example.early", "{}"))
        self.deactivate(erase=True)
        self.app.wait(core.committer.work(put_field, bob, "displayname", "Bob"))
        self.app.wait(core.committer.work(put_account_data, bob, 0, "org.example.late", "{}"))
        self.app.wait(core.committer.work(put_tag, bob, room_nid, "m.favourite", {}))
        self.assertEqual(404, self.app.call("GET", f"{V3}/profile/{BOB}")[0])
        kept = [(0, "org.example.early"), (0, "org.example.late"), (room_nid, "m.tag")]
        found = [self.app.wait(self.app.database.read(load_account_data, bob, *one)) for one in kept]
        self.assertEqual([None] * 3, found)
        self.assertEqual({}, self.app.wait(self.app.database.read(load_fields, [bob])))

    def test_nothing_is_pushed_any_more(self) -> None:
        pusher = {
            "app_id": "example",
            "pushkey": "key",
            "kind": "http",
            "app_display_name": "App",
            "device_display_name": "Phone",
            "lang": "en",
            "data": {"url": "https://push.example/_matrix/push/v1/notify"},
        }
        self.ok(self.bob, "/pushers/set", pusher)
        bob = self.app.app.core.interner.known_user(BOB)
        assert bob is not None
        self.assertEqual(1, len(self.app.wait(self.app.database.read(load_pushers, bob))))
        self.deactivate(erase=True)
        self.pump()
        self.assertEqual([], self.app.wait(self.app.database.read(load_pushers, bob)))

    def test_an_earlier_process_had_no_time(self) -> None:
        self.store_deactivation()
        self.app.restart()
        self.assertEqual(["join"] * 3 + ["invite", "knock"], self.memberships())
        self.app.app.begin()
        self.pump()
        self.assertEqual(["leave"] * 5, self.memberships())
        # Once more finds nothing to do.
        position = self.app.app.core.changes.position
        self.app.restart()
        self.app.app.begin()
        self.pump()
        self.assertEqual(position, self.app.app.core.changes.position)

    def test_what_is_refused_for_now_is_tried_again(self) -> None:
        for error in (
            limit_exceeded(1000),
            MatrixError(502, "M_UNKNOWN", "away"),
            DatabaseUnavailable("away"),
        ):
            self.setUp()
            registry = self.app.app.core.rooms
            actor = self.app.wait(Deferred.fromCoroutine(registry.find(self.joined[1])))
            refusals = iter([error])
            run = actor.run

            def refuse_once(job: Any, refusals: Any = refusals, run: Any = run) -> Any:
                refusal = next(refusals, None)
                if refusal is None:
                    return run(job)
                refused: Deferred[Any] = Deferred()
                refused.errback(refusal)
                return refused

            self.patch(actor, "run", refuse_once)
            self.deactivate()
            self.pump()
            self.assertEqual("join", self.member_at_rest(self.joined[1]))
            self.pump(60)
            self.assertEqual(["leave"] * 5, self.memberships())
            logged = [entry for entry in self.app.log.entries if entry[0] == "error"]
            self.assertEqual(1, len(logged), logged)
            self.app.log.entries.clear()

    def member_at_rest(self, room_id: str) -> str:
        """The membership as the index has it, without a turn of the room."""
        core = self.app.app.core
        bob, room = core.interner.known_user(BOB), core.interner.known_room(room_id)
        assert bob is not None and room is not None
        standing = core.index.standing(bob, room)
        assert standing is not None
        return standing.membership.name.lower()


def _deactivate_alone(tx: Any, user_nid: int) -> None:
    # Without the change in the log: an earlier process has had that.
    deactivate_account(_Claimless(tx), user_nid, erase=False)  # type: ignore[arg-type]


class _Claimless:
    def __init__(self, tx: Any) -> None:
        self._tx = tx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def claim(self, *_: Any, **__: Any) -> None:
        """Nobody follows."""
