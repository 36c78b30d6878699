"""What application services are told where the follower that tells them fails in the midst of it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from homeserver.config.registrations import AppserviceRegistration
from homeserver.http.client import HttpResponse
from homeserver.store.aliases import load_room_aliases
from homeserver.store.device_lists import load_joined
from tests.api.test_appservice_transactions import GHOST, V3, BridgeCase, Failing
from tests.support.app import SERVER_NAME
from tests.support.appservices import AS_TOKEN, Asked, registration
from tests.support.databases import on_each_database

ALICE = f"@alice:{SERVER_NAME}"


@on_each_database
class Retries(BridgeCase):
    def registrations(self) -> list[AppserviceRegistration]:
        return [registration(encryption=True)]

    def break_off(self, unit: Any) -> None:
        """The follower cannot read this, until ``go_on``."""
        telling = self.app.app.outgoing.telling
        assert telling is not None
        self.following, self.real = telling.following, telling.following._database
        self.following._database = Failing(self.real, unit)  # type: ignore[assignment]  # what it reads with

    def go_on(self) -> None:
        self.following._database = self.real
        self.settle(10)
        errors = [one[1] for one in self.app.log.entries if one[0] == "error"]
        self.assertEqual({"follower failed, will go on"}, set(errors))
        self.app.log.entries.clear()

    def test_each_event_once(self) -> None:
        room_id = self.portal()
        self.forget()
        self.break_off(load_room_aliases)
        # Both before the follower goes on: a message, and an alias that it must read.
        path = f"{V3}/rooms/{room_id}/send/m.room.message/one"
        said = self.app.start("PUT", path, {"msgtype": "m.text", "body": "one"}, self.alice)
        alias = quote(f"#some:{SERVER_NAME}")
        named = self.app.start("PUT", f"{V3}/directory/room/{alias}", {"room_id": room_id}, self.alice)
        self.assertEqual([200, 200], [self.app.wait(one).status for one in (said, named)])
        for _ in range(10):
            self.settle(1)
        self.go_on()
        self.assertEqual(["one"], self.told())

    def test_each_membership_once(self) -> None:
        """It is owed before the follower fails with the keys of who is there."""
        room_id = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)["room_id"]
        self.forget()
        self.http.answer = self.http.silence
        self.break_off(load_joined)
        self.as_ghost("POST", f"{V3}/join/{room_id}", {})
        for _ in range(10):
            self.settle(1)
        self.http.answer = lambda _: (200, {})
        self.go_on()
        self.settle(60)
        self.assertEqual(["join"], [event["content"]["membership"] for event in self.http.events()])

    def test_who_is_there_when_the_first_ghost_comes(self) -> None:
        room_id = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)["room_id"]
        self.settle(1)
        for path, told in (("join", ([ALICE], [])), ("leave", ([], [ALICE]))):
            self.forget()
            self.break_off(load_joined)
            self.app.ok("POST", f"{V3}/rooms/{room_id}/{path}", {}, AS_TOKEN, {"user_id": GHOST})
            self.settle(3)
            self.go_on()
            lists = [body["device_lists"] for body in self.http.transactions() if "device_lists" in body]
            self.assertEqual([told], [(one["changed"], one["left"]) for one in lists])
            self.assertEqual([path], [event["content"]["membership"] for event in self.http.events()])


class LargeCase(BridgeCase):
    """A bridge that refuses what is larger than ``limit``, as those do that are made with aiohttp."""

    encryption = True

    def registrations(self) -> list[AppserviceRegistration]:
        return [registration(receive_ephemeral=True, encryption=self.encryption)]

    def setUp(self) -> None:
        super().setUp()
        self.limit = 1024 * 1024
        self.sizes: list[int] = []
        self.taken: list[Any] = []
        self.room_id = self.portal()
        self.settle(1)
        self.http.answer = self.http.silence

    def answer(self, one: Asked) -> tuple[int, Any]:
        self.sizes.append(len(json.dumps(one.body, separators=(",", ":"))))
        if self.sizes[-1] > self.limit:
            return 413, {}
        self.taken.append(one.body)
        return 200, {}

    def be_back(self) -> None:
        self.http.answer = self.answer
        for _ in range(3):
            self.settle(400)

    def say_much(self, count: int) -> list[str]:
        said = [f"{number} " + "x" * 55_000 for number in range(count)]
        for text in said:
            self.say(self.room_id, text)
        return said

    def taken_texts(self) -> list[str]:
        return [one["content"]["body"] for body in self.taken for one in body["events"]]


@on_each_database
class Large(LargeCase):
    """What it is told all the same."""

    def test_events(self) -> None:
        said = self.say_much(24)
        self.be_back()
        self.assertEqual(said, self.taken_texts())
        self.assertLess(max(self.sizes), self.limit)

    def test_messages_to_devices(self) -> None:
        self.app.call("PUT", f"{V3}/devices/PHONE", {}, AS_TOKEN, {"user_id": GHOST})
        for number in range(18):
            content = {"number": number, "x": "y" * 60_000}
            body = {"messages": {GHOST: {"PHONE": content}}}
            self.app.ok("PUT", f"{V3}/sendToDevice/m.test/n{number}", body, self.alice)
        said = self.say_much(3)
        self.be_back()
        key = "de.sorunome.msc2409.to_device"
        messages = [one["content"]["number"] for body in self.taken for one in body.get(key, ())]
        self.assertEqual((list(range(18)), said), (messages, self.taken_texts()))
        self.assertLess(max(self.sizes), self.limit)

    def test_smaller_ones_where_one_is_refused(self) -> None:
        """Down to a single event; in order, each once, through a restart with the large one in the tables."""
        said = self.say_much(7)
        self.http.answer = lambda one: None if self.taken else self.answer(one)
        self.settle(400)
        self.assertEqual(said[:1], self.taken_texts())
        self.assertEqual(6, len(self.http.transactions()[-1]["events"]))
        self.restart()
        self.limit = 80_000
        self.be_back()
        self.assertEqual(said, self.taken_texts())
        said.append("a small one")
        self.say(self.room_id, said[-1])
        self.assertEqual(said, self.taken_texts())

    def test_one_alone_that_is_refused(self) -> None:
        """It is tried again, and nothing is missing when the limit is raised."""
        said = self.say_much(2)
        self.limit = 50_000
        self.be_back()
        self.assertEqual([], self.taken_texts())
        self.assertLess(len(self.sizes), 30)
        warnings = [one[1] for one in self.app.log.entries if one[0] == "warning"]
        self.assertIn("an application service refuses a single event for its size", warnings)
        self.limit = 1024 * 1024
        self.be_back()
        self.assertEqual(said, self.taken_texts())

    def test_a_limit_that_lasts(self) -> None:
        """It is not tried again after each success whether more is taken now."""
        said = self.say_much(40)
        self.limit = 600_000
        self.be_back()
        self.assertEqual(said, self.taken_texts())
        self.assertEqual(1, sum(size > self.limit for size in self.sizes))

    def test_of_the_moment_and_refused(self) -> None:
        """Once more, in smaller ones."""
        self.limit = 250
        self.http.answer = self.answer
        self.settle(400)
        self.app.ok("PUT", f"{V3}/presence/{ALICE}/status", {"presence": "online"}, self.alice)
        path = f"{V3}/rooms/{self.room_id}/typing/{ALICE}"
        self.app.ok("PUT", path, {"typing": True, "timeout": 30_000}, self.alice)
        self.settle(1)
        self.assertGreater(max(self.sizes), self.limit)
        self.limit = 1024 * 1024
        self.settle(5)
        told = [one["type"] for body in self.taken for one in body.get("ephemeral", ())]
        self.assertEqual(["m.presence", "m.typing"], sorted(told))

    def test_what_is_of_the_moment(self) -> None:
        """Many users whose keys changed are told of by several transactions, and events after them."""
        telling = self.app.app.outgoing.telling
        assert telling is not None
        (box,) = telling.deliveries.boxes
        self.limit = 2_000
        self.be_back()
        names = [f"@far{number}:elsewhere.example" for number in range(100)]
        interner = self.app.app.core.interner
        for name in names:
            box.changed.add(self.app.wait(Deferred.fromCoroutine(interner.user(name))))
        self.say(self.room_id, "after them")
        self.settle(1)
        changed = [one for body in self.taken for one in body.get("device_lists", {}).get("changed", ())]
        self.assertEqual((set(names), ["after them"]), (set(changed) & set(names), self.taken_texts()))


@on_each_database
class LargeWithoutKeys(LargeCase):
    """One that asks for no keys, which would take what is of the moment along."""

    encryption = False

    def test_of_the_moment_among_many_events(self) -> None:
        """After a refusal it goes by itself, and does not wait until everything else is told."""
        self.say_much(10)
        self.limit = 150_000
        self.be_back()
        self.taken.clear()
        held: Deferred[HttpResponse] = Deferred()
        self.http.answer = self.http.hold(held)
        self.say(self.room_id, "one that is under way")
        self.settle(1)
        said = self.say_much(20)
        path = f"{V3}/rooms/{self.room_id}/typing/{ALICE}"
        self.app.ok("PUT", path, {"typing": True, "timeout": 30_000}, self.alice)
        self.http.answer = self.answer
        held.callback(self.http.ok())
        self.settle(10)
        self.assertEqual(said, self.taken_texts()[-len(said) :])
        kinds = [[one["type"] for one in body.get("ephemeral", ())] for body in self.taken]
        typing = next(number for number, told in enumerate(kinds) if "m.typing" in told)
        self.assertLess(typing, 4)
