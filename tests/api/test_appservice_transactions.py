"""What application services are told: in order, at least once, through failures and restarts, and nobody waits for them."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail

from homeserver.appservices.bundles import BYTES_MOST, EVENTS_MOST, load_bundle
from homeserver.appservices.outbox import RETRY_MAX_MS
from homeserver.config.registrations import AppserviceRegistration, Namespace, Pattern
from homeserver.db.errors import DatabaseUnavailable
from homeserver.store.appservices import load_owed, put_transaction
from homeserver.store.changes import skip_positions
from homeserver.store.outside import Told, put_outside, put_vanished
from homeserver.store.placement import Membership
from tests.support.app import SERVER_NAME, TestApp
from tests.support.appservices import AS_TOKEN, HS_TOKEN, Asked, FakeAppservices, registration
from tests.support.databases import DatabaseCase, on_each_database

V3 = "/_matrix/client/v3"
GHOST = f"@_bridge_bob:{SERVER_NAME}"
BOT = f"@_bridgebot:{SERVER_NAME}"


class BridgeCase(DatabaseCase):
    """Alice, and a bridge with one ghost."""

    def registrations(self) -> list[AppserviceRegistration]:
        return [registration()]

    def setUp(self) -> None:
        self.http = FakeAppservices()
        self.app = TestApp(
            self,
            self.new_database(),
            registrations=self.registrations(),
            appservice_http=self.http,
        )
        self.app.app.begin()
        self.settle()
        self.alice = self.app.register("alice")
        self.make_ghost("_bridge_bob")
        self.number = 0

    def make_ghost(self, name: str) -> None:
        body = {"type": "m.login.application_service", "username": name, "inhibit_login": True}
        self.app.ok("POST", f"{V3}/register", body, AS_TOKEN)

    def settle(self, seconds: float = 0) -> None:
        self.app.advance(seconds)
        for _ in range(60):
            self.app.advance(0)

    def as_ghost(self, method: str, path: str, body: Any = None, user_id: str = GHOST, **query: Any) -> Any:
        return self.app.ok(method, path, body, AS_TOKEN, {"user_id": user_id, **query})

    def portal(self, **body: Any) -> str:
        """A room of the ghost's with alice in it."""
        room = self.as_ghost("POST", f"{V3}/createRoom", {"preset": "public_chat", **body})["room_id"]
        self.app.ok("POST", f"{V3}/join/{room}", {}, self.alice)
        self.settle()
        return str(room)

    def say(self, room_id: str, text: str, token: str | None = None, user_id: str | None = None) -> str:
        self.number += 1
        path = f"{V3}/rooms/{room_id}/send/m.room.message/t{self.number}"
        query = {} if user_id is None else {"user_id": user_id}
        answer = self.app.ok("PUT", path, {"msgtype": "m.text", "body": text}, token or self.alice, query)
        self.settle()
        return str(answer["event_id"])

    def told(self) -> list[str]:
        """The texts that the bridge was told, in order; each transaction once."""
        return [event["content"]["body"] for event in self.http.events() if "body" in event["content"]]

    def forget(self) -> None:
        self.http.asked.clear()

    def restart(self) -> None:
        self.app.restart()
        self.app.app.begin()
        self.settle()


class Failing:
    """A worker or database that fails in one unit of work."""

    def __init__(self, real: Any, unit: Any) -> None:
        self._real = real
        self._unit = unit

    def work(self, unit: Any, *args: Any) -> Any:
        return fail(DatabaseUnavailable("gone")) if unit is self._unit else self._real.work(unit, *args)

    def read(self, unit: Any, *args: Any) -> Any:
        return fail(DatabaseUnavailable("gone")) if unit is self._unit else self._real.read(unit, *args)


@on_each_database
class Transactions(BridgeCase):
    def test_form(self) -> None:
        room_id = self.portal()
        self.forget()
        event_id = self.say(room_id, "hello")
        (asked,) = self.http.asked
        self.assertEqual("PUT", asked.method)
        self.assertTrue(asked.path.startswith("/_matrix/app/v1/transactions/"), asked.path)
        self.assertEqual(f"Bearer {HS_TOKEN}", asked.headers["Authorization"])
        self.assertEqual({}, asked.query)
        self.assertEqual(["events"], list(asked.body))
        (event,) = asked.body["events"]
        self.assertEqual(
            (event_id, room_id, "m.room.message", f"@alice:{SERVER_NAME}", "hello"),
            (event["event_id"], event["room_id"], event["type"], event["sender"], event["content"]["body"]),
        )
        self.assertNotIn("state_key", event)
        self.assertIn("age", event["unsigned"])

    def test_state_carries_what_it_replaced(self) -> None:
        room_id = self.portal()
        self.forget()
        self.app.ok("POST", f"{V3}/rooms/{room_id}/leave", {}, self.alice)
        self.settle()
        (event,) = self.http.events()
        self.assertEqual("leave", event["content"]["membership"])
        self.assertEqual("join", event["unsigned"]["prev_content"]["membership"])
        self.assertEqual(f"@alice:{SERVER_NAME}", event["state_key"])

    def test_own_events_come_too(self) -> None:
        room_id = self.portal()
        kinds = [event["type"] for event in self.http.events()]
        self.assertEqual("m.room.create", kinds[0])
        self.forget()
        self.say(room_id, "mine", AS_TOKEN, GHOST)
        self.assertEqual(["mine"], self.told())

    def test_only_what_concerns_it(self) -> None:
        other = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)["room_id"]
        self.forget()
        self.say(other, "not for you")
        self.assertEqual([], self.http.asked)
        # An invite of a ghost, of one that nobody made yet too, and of the sender.
        unborn = f"@_bridge_unborn:{SERVER_NAME}"
        for user_id in (GHOST, unborn, BOT):
            self.app.ok("POST", f"{V3}/rooms/{other}/invite", {"user_id": user_id}, self.alice)
        self.settle()
        self.assertEqual([GHOST, unborn, BOT], [event["state_key"] for event in self.http.events()])
        self.forget()
        self.say(other, "still not")
        self.as_ghost("POST", f"{V3}/join/{other}", {})
        self.say(other, "now")
        self.as_ghost("POST", f"{V3}/rooms/{other}/leave", {})
        self.settle()
        self.say(other, "not any more")
        self.assertEqual(["now"], self.told())
        memberships = [
            e["content"].get("membership") for e in self.http.events() if e["type"] == "m.room.member"
        ]
        self.assertEqual(["join", "leave"], memberships)

    def test_what_was_owed_before_a_restore(self) -> None:
        room_id = self.portal()
        self.forget()
        self.http.answer = self.http.silence
        self.say(room_id, "one")
        self.say(room_id, "two")
        self.app.wait(self.app.database.write(skip_positions))
        self.restart()
        self.say(room_id, "three")
        looks: list[int] = []
        read = self.app.database.read

        def count(unit: Any, *args: Any) -> Any:
            if unit is load_owed:
                looks.append(args[0].after)
            return read(unit, *args)

        self.patch(self.app.database, "read", count)
        self.http.answer = lambda _: (200, {})
        self.settle(400)
        self.assertEqual(["one", "two", "three"], self.told())
        self.say(room_id, "four")
        self.assertEqual("four", self.told()[-1])
        # Not through all the positions at which nothing ever was.
        self.assertLess(len(looks), 10)

    def test_invites_tell_of_the_room(self) -> None:
        body = {"preset": "private_chat", "name": "den", "invite": [GHOST], "is_direct": True}
        room_id = self.app.ok("POST", f"{V3}/createRoom", body, self.alice)["room_id"]
        self.settle()
        (event,) = self.http.events()
        self.assertEqual((room_id, GHOST), (event["room_id"], event["state_key"]))
        told = {one["type"]: one["content"] for one in event["unsigned"]["invite_room_state"]}
        self.assertEqual({"name": "den"}, told["m.room.name"])
        self.assertEqual({"join_rule": "invite"}, told["m.room.join_rules"])
        self.assertNotIn("m.room.power_levels", told)

    def test_invites_to_rooms_elsewhere(self) -> None:
        """Told by another server, of a room that this one is not in: at once, and after an outage."""
        first, later = self.invite_from_elsewhere("first"), ""
        self.assertEqual([first], [event["room_id"] for event in self.http.events()])
        (event,) = self.http.events()
        self.assertEqual((GHOST, "invite"), (event["state_key"], event["content"]["membership"]))
        self.assertEqual([{"type": "m.room.name"}], event["unsigned"]["invite_room_state"])
        self.http.answer = self.http.silence
        self.say(self.portal(), "nobody hears this at once")
        later = self.invite_from_elsewhere("later")
        self.restart()
        self.http.answer = lambda _: (200, {})
        self.settle(400)
        invites = [e["room_id"] for e in self.http.events() if e["content"].get("membership") == "invite"]
        self.assertEqual([first, later], list(dict.fromkeys(invites)))

    def invite_from_elsewhere(self, name: str) -> str:
        core = self.app.app.core
        room_id = f"!{name}:elsewhere.example"
        room_nid = self.app.wait(Deferred.fromCoroutine(core.interner.room(room_id)))
        user_nid = self.app.wait(Deferred.fromCoroutine(core.interner.user(GHOST)))
        event = {
            "type": "m.room.member",
            "sender": "@eve:elsewhere.example",
            "state_key": GHOST,
            "content": {"membership": "invite"},
            "origin_server_ts": 1,
            "room_id": room_id,
        }
        told = Told(
            room_nid,
            user_nid,
            Membership.INVITE,
            "elsewhere.example",
            "11",
            f"${name}",
            json.dumps(event),
            '[{"type":"m.room.name"}]',
        )
        self.app.wait(core.committer.work(put_outside, told))
        self.settle()
        return room_id

    def test_memberships_that_no_event_ended(self) -> None:
        """A state resolution took one away: nothing can be told of that, and a bridge might refuse what is no event."""
        core = self.app.app.core
        room_id = self.portal()
        other = self.app.wait(Deferred.fromCoroutine(core.interner.room("!other:elsewhere.example")))
        ghost = core.interner.known_user(GHOST)
        assert ghost is not None
        self.http.answer = self.http.silence
        self.say(room_id, "one")
        self.say(room_id, "two")
        self.app.wait(core.committer.work(put_vanished, other, {ghost: core.changes.position}))
        self.forget()
        self.http.answer = lambda _: (200, {})
        self.settle(400)
        self.assertEqual(["one", "two"], self.told())
        self.assertEqual([], [event for event in self.http.events() if "type" not in event])

    def test_the_only_one_is_removed_and_forgotten(self) -> None:
        """When it comes back it begins with what is new then."""
        room_id = self.portal()
        self.http.answer = self.http.silence
        self.say(room_id, "on its way")
        self.app.registrations = []
        self.restart()
        self.say(room_id, "while it was gone")
        self.app.registrations = self.registrations()
        self.forget()
        self.http.answer = lambda _: (200, {})
        self.restart()
        self.settle(400)
        self.assertEqual([], self.http.asked)
        self.say(room_id, "anew")
        self.assertEqual(["anew"], self.told())

    def test_many_at_once(self) -> None:
        room_id = self.portal()
        self.forget()
        hold: Deferred[Any] = Deferred()
        self.http.answer = lambda _: hold
        self.say(room_id, "first")
        for number in range(EVENTS_MOST + 20):
            self.say(room_id, f"{number}")
        self.assertEqual(1, len(self.http.asked), "one transaction at a time")
        self.http.answer = lambda _: (200, {})
        hold.callback(self.http.ok())
        self.settle()
        self.assertEqual([1, EVENTS_MOST, 20], [len(body["events"]) for body in self.http.transactions()])
        self.assertEqual(["first", *map(str, range(EVENTS_MOST + 20))], self.told())

    def test_again_until_it_is_there(self) -> None:
        room_id = self.portal()
        self.forget()
        self.http.answer = lambda _: None
        self.say(room_id, "one")
        for number in range(5):  # nobody waits for a bridge that is down
            self.say(room_id, f"more {number}")
        self.assertEqual(1, len(self.http.asked))
        for seconds in (1, 2, 4, 8):
            self.settle(seconds)
        tried = len(self.http.asked)
        self.assertGreaterEqual(tried, 4)
        self.assertEqual(1, len({one.path for one in self.http.asked}), "the same transaction each time")
        self.assertEqual(1, len({str(one.body) for one in self.http.asked}), "and the same bytes")
        self.http.answer = lambda _: (200, {})
        self.settle(RETRY_MAX_MS / 1000)
        self.assertEqual(["one", *(f"more {number}" for number in range(5))], self.told())
        self.forget()
        self.say(room_id, "at once again")
        self.assertEqual(["at once again"], self.told())

    def test_back_off_ends_when_it_speaks(self) -> None:
        room_id = self.portal()
        self.http.answer = lambda _: None
        self.say(room_id, "one")
        for _ in range(12):
            self.settle(400)
        self.forget()
        self.http.answer = lambda _: (200, {})
        self.settle(3)
        self.assertEqual([], self.http.asked, "its turn has not come")
        self.app.ok("GET", f"{V3}/account/whoami", None, AS_TOKEN)
        self.settle()
        self.assertEqual(["one"], self.told())

    def test_restart_in_the_middle(self) -> None:
        room_id = self.portal()
        self.forget()
        self.http.answer = lambda _: (500, {})
        self.say(room_id, "one")
        first = next(one for one in self.http.asked)
        for text in ("two", "three"):
            self.say(room_id, text)
        self.restart()
        self.say(room_id, "four")
        self.http.answer = lambda _: (200, {})
        self.settle(10)
        again = [one for one in self.http.asked if one.path == first.path]
        self.assertGreater(len(again), 1)
        self.assertEqual({str(first.body)}, {str(one.body) for one in again})
        self.assertEqual(["one", "two", "three", "four"], self.told())

    def test_restart_after_the_answer_was_lost(self) -> None:
        room_id = self.portal()
        self.forget()
        hold: Deferred[Any] = Deferred()
        self.http.answer = lambda _: hold
        self.say(room_id, "one")
        first = self.http.asked[0]
        self.http.answer = lambda _: (200, {})
        self.restart()
        self.assertEqual([first.path] * 2, [one.path for one in self.http.asked])
        self.assertEqual(first.body, self.http.asked[1].body)
        self.say(room_id, "two")
        self.assertEqual(["one", "two"], self.told())

    def test_nothing_twice_after_a_quiet_restart(self) -> None:
        room_id = self.portal()
        self.say(room_id, "one")
        self.settle(10)
        self.forget()
        self.restart()
        self.settle(10)
        self.assertEqual([], self.http.asked)
        self.say(room_id, "two")
        self.assertEqual(["two"], self.told())

    def test_away_for_long(self) -> None:
        """What came while it was away is read from the rooms, and only while a ghost was there."""
        room_id = self.portal()
        self.forget()
        self.http.answer = lambda _: None
        self.say(room_id, "lost at first")
        expected = ["lost at first"]
        for number in range(30):
            expected.append(f"{number}")
            self.say(room_id, f"{number}")
        self.as_ghost("POST", f"{V3}/rooms/{room_id}/leave", {})
        self.say(room_id, "behind its back")
        self.restart()
        self.as_ghost("POST", f"{V3}/join/{room_id}", {})
        self.say(room_id, "back")
        other = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)["room_id"]
        self.say(other, "elsewhere")
        self.app.ok("POST", f"{V3}/rooms/{other}/invite", {"user_id": BOT}, self.alice)
        self.http.answer = lambda _: (200, {})
        self.settle(RETRY_MAX_MS / 1000)
        self.settle(RETRY_MAX_MS / 1000)
        self.assertEqual([*expected, "back"], self.told())
        members = [
            (event["state_key"], event["content"]["membership"])
            for event in self.http.events()
            if event["type"] == "m.room.member"
        ]
        self.assertEqual([(GHOST, "leave"), (GHOST, "join"), (BOT, "invite")], members)

    def test_large_ones(self) -> None:
        """A transaction is bounded in bytes too, for who keeps up and for who was away."""
        room_id = self.portal()
        expected: list[str] = []
        for away in (False, True):
            self.forget()
            hold: Deferred[Any] = Deferred()
            self.http.answer = self.http.silence if away else self.http.hold(hold)
            for place in range(45):
                expected.append(f"{away} {place} " + "x" * 55_000)
                self.say(room_id, expected[-1])
            self.http.answer = lambda _: (200, {})
            hold.callback(self.http.ok())
            self.settle(400)
            self.settle(400)
            self.assertEqual(expected, self.told())
            sizes = [len(str(body)) for body in self.http.transactions()]
            self.assertLess(max(sizes), BYTES_MOST + 100_000)
            self.assertLessEqual(3, len(sizes))
            expected.clear()

    def test_a_database_that_fails(self) -> None:
        """Nothing is lost where a transaction, or what belongs into it, cannot be stored or read."""
        room_id = self.portal()
        telling = self.app.app.outgoing.telling
        assert telling is not None
        deliveries = telling.deliveries
        expected = []
        for name, unit in (("_worker", put_transaction), ("_database", load_bundle)):
            self.forget()
            real = getattr(deliveries, name)
            setattr(deliveries, name, Failing(real, unit))
            for number in range(3):
                expected.append(f"{name} {number}")
                self.say(room_id, expected[-1])
            self.assertEqual([], self.told())
            setattr(deliveries, name, real)
            self.settle(10)
            self.assertEqual(expected, self.told())
            expected.clear()

    def test_old_paths(self) -> None:
        room_id = self.portal()
        self.forget()

        def old(asked: Asked) -> tuple[int, Any]:
            right = asked.path.startswith("/transactions/") and asked.query == {"access_token": [HS_TOKEN]}
            return (200, {}) if right else (404, {})

        self.http.answer = old
        self.say(room_id, "one")
        self.assertEqual(2, len(self.http.asked))
        self.say(room_id, "two")
        self.assertEqual(3, len(self.http.asked), "what it understood is asked first now")
        self.assertEqual({"one", "two"}, set(self.told()))
        self.settle(4000)
        self.forget()
        self.say(room_id, "three")
        self.assertTrue(self.http.asked[0].path.startswith("/_matrix/app/v1/"), "tried again now and then")


@on_each_database
class Neighbours(BridgeCase):
    """Two bridges in one room, and one that has no address."""

    def registrations(self) -> list[AppserviceRegistration]:
        everybody = (Namespace(Pattern(f"@.*:{SERVER_NAME}"), False),)
        return [registration(), registration("other"), registration("puppets", url=None, users=everybody)]

    def test_one_that_is_down_slows_nobody(self) -> None:
        room_id = self.portal()
        body = {"type": "m.login.application_service", "username": "_other_eve", "inhibit_login": True}
        self.app.ok("POST", f"{V3}/register", body, "as-token-of-other")
        self.app.ok(
            "POST", f"{V3}/join/{room_id}", {}, "as-token-of-other", {"user_id": f"@_other_eve:{SERVER_NAME}"}
        )
        self.settle()
        self.forget()
        hangs: Deferred[Any] = Deferred()
        self.http.answer = lambda asked: (
            (200, {}) if asked.headers["Authorization"].endswith(HS_TOKEN) else hangs
        )
        for text in ("one", "two", "three"):
            self.say(room_id, text)
        mine = [one for one in self.http.asked if one.headers["Authorization"].endswith(HS_TOKEN)]
        self.assertEqual(3, len(mine))
        self.assertEqual(1, len(self.http.asked) - len(mine))

    def test_removed_and_forgotten(self) -> None:
        room_id = self.portal()
        self.http.answer = lambda _: None
        self.say(room_id, "one")
        self.app.registrations = [registration("other")]
        self.restart()
        self.app.registrations = [registration(), registration("other")]
        self.forget()
        self.http.answer = lambda _: (200, {})
        self.restart()
        self.settle(400)
        self.assertEqual([], self.told())
        self.say(room_id, "anew")
        self.assertEqual(["anew"], self.told())


class Rooms(BridgeCase):
    """Rooms that concern a bridge by their id or alias, whoever is in them."""

    def registrations(self) -> list[AppserviceRegistration]:
        return [
            registration(rooms=(Namespace(Pattern("!watched"), False),)),
            registration("other", aliases=(Namespace(Pattern("#plaza"), False),)),
        ]

    def by(self, service: str) -> list[str]:
        token = HS_TOKEN if service == "bridge" else f"hs-token-of-{service}"
        bodies = [one.body for one in self.http.asked if one.headers["Authorization"].endswith(token)]
        return [e["content"]["body"] for body in bodies for e in body["events"] if "body" in e["content"]]

    def test_by_alias(self) -> None:
        room = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)["room_id"]
        self.say(room, "before")
        alias = f"{V3}/directory/room/%23plaza:{SERVER_NAME}"
        self.app.ok("PUT", alias, {"room_id": room}, self.alice)
        self.say(room, "named")
        self.http.answer = lambda _: None
        self.say(room, "away")
        self.say(room, "still away")
        self.http.answer = lambda _: (200, {})
        self.restart()
        self.settle(400)
        self.app.ok("DELETE", alias, None, self.alice)
        self.say(room, "nameless")
        self.assertEqual(["named", "away", "still away"], list(dict.fromkeys(self.by("other"))))
        self.assertEqual([], self.by("bridge"))


@on_each_database
class EveryRoom(BridgeCase):
    """A bridge that watches every room, whoever is in it, and has no user but its sender."""

    def registrations(self) -> list[AppserviceRegistration]:
        return [registration(rooms=(Namespace(Pattern("!"), False),))]

    def test_hears_all(self) -> None:
        first, second = (
            self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)["room_id"]
            for _ in range(2)
        )
        self.say(first, "one")
        self.http.answer = self.http.silence
        for number in range(4):
            self.say(first if number % 2 else second, f"away {number}")
        self.restart()
        self.http.answer = lambda _: (200, {})
        self.settle(400)
        self.say(second, "back")
        self.assertEqual(["one", *(f"away {number}" for number in range(4)), "back"], self.told())


class Cost(BridgeCase):
    """A message that concerns no application service costs no statement more."""

    def test_no_statement(self) -> None:
        room = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)["room_id"]
        self.say(room, "warm")
        self.settle(100)
        counts = []
        for on in (True, False):
            if not on:
                self.app.registrations = []
                self.restart()
                self.say(room, "warm again")
                self.settle(100)
            asked: list[str] = []
            self.app.engine.hook = asked.append
            self.number += 1
            path = f"{V3}/rooms/{room}/send/m.room.message/t{self.number}"
            self.app.ok("PUT", path, {"msgtype": "m.text", "body": "x"}, self.alice)
            for _ in range(60):
                self.app.advance(0)
            self.app.engine.hook = None
            counts.append(len(asked))
        self.assertEqual(counts[0], counts[1])
