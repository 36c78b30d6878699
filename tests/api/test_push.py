"""The push gateway client. spec: push-gateway-api#homeserver-behaviour, client-server-api#server-behaviour-13"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import ensureDeferred, fail, succeed

from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.schema.sync import thread_subscriptions
from homeserver.db.statements import rows
from homeserver.db.tx import WriteTx
from homeserver.http.client import HttpResponse
from homeserver.http.transport import Unreachable
from homeserver.push import follower
from homeserver.push import sender as module
from homeserver.push.composer import Composer
from homeserver.push.counts import Unread
from homeserver.push.rules import CompiledRules
from homeserver.store.changes import Kind
from homeserver.store.events import find_row
from tests.api.pushing import PushCase, user
from tests.support.databases import on_each_database
from tests.support.gateways import OK, URL

HOUR_S = 3600.0


@on_each_database
class Notifications(PushCase):
    def test_a_message(self) -> None:
        self.state("m.room.name", {"name": "Mission Control"})
        self.ok("alice", "PUT", f"/profile/{user('alice')}/displayname", {"displayname": "Major Tom"})
        self.set_pusher(data={"own": [1]})
        event_id = self.send(body="a most peculiar way")
        (told,) = self.gateways.take()
        now_s = int(self.app.time.seconds())
        self.assertEqual(
            {
                "event_id": event_id,
                "room_id": self.room_id,
                "type": "m.room.message",
                "sender": user("alice"),
                "sender_display_name": "Major Tom",
                "room_name": "Mission Control",
                "prio": "low",
                "content": {"msgtype": "m.text", "body": "a most peculiar way"},
                "counts": {"unread": 1},
                "devices": [
                    {
                        "app_id": "org.example",
                        "pushkey": "key",
                        "pushkey_ts": now_s,
                        "data": {"own": [1]},
                        "tweaks": {},
                    }
                ],
            },
            told,
        )
        self.assertEqual(("https",), self.gateways.limits[0].schemes)
        self.assertEqual(0, self.gateways.limits[0].max_redirects)

    def test_a_name_that_was_redacted_is_not_told(self) -> None:
        member = f"/rooms/{self.room_id}/state/m.room.member/{user('alice')}"
        content = {"membership": "join", "displayname": "Offensive"}
        event_id = self.ok("alice", "PUT", member, content)["event_id"]
        self.set_pusher()
        self.send()
        (told,) = self.gateways.take()
        self.assertEqual("Offensive", told["sender_display_name"])
        self.ok("alice", "PUT", f"/rooms/{self.room_id}/redact/{event_id}/t", {})
        self.settle(2)
        self.gateways.take()
        self.send()
        (told,) = self.gateways.take()
        self.assertNotIn("sender_display_name", told)

    def test_only_the_id(self) -> None:
        self.set_pusher(data={"format": "event_id_only"})
        event_id = self.send()
        (told,) = self.gateways.take()
        self.assertEqual({"event_id", "room_id", "counts", "devices", "prio"}, set(told))
        self.assertEqual(event_id, told["event_id"])
        self.assertEqual({"format": "event_id_only"}, told["devices"][0]["data"])
        self.assertNotIn("tweaks", told["devices"][0])

    def test_tweaks_and_priority(self) -> None:
        self.set_pusher()
        self.send(content={"m.mentions": {"user_ids": [user("bob")]}})
        self.send(type_="m.room.encrypted", content={"algorithm": "m.megolm.v1.aes-sha2"})
        first, second = self.gateways.take()
        self.assertEqual({"sound": "default", "highlight": True}, first["devices"][0]["tweaks"])
        self.assertEqual(("high", "high"), (first["prio"], second["prio"]))
        self.assertEqual({}, second["devices"][0]["tweaks"])

    def test_who_is_told_and_of_what(self) -> None:
        for name in ("alice", "bob", "carol"):
            self.set_pusher(name, pushkey=name)
        self.send("alice")
        self.assertEqual({"bob", "carol"}, {one["devices"][0]["pushkey"] for one in self.gateways.take()})
        # Nothing that no rule notifies of, nobody who ignores the sender, nobody who has left.
        self.send("alice", content={"msgtype": "m.notice"})
        self.ok("bob", "PUT", f"/user/{user('bob')}/account_data/m.ignored_user_list", {
            "ignored_users": {user("alice"): {}}
        })  # fmt: skip
        self.ok("carol", "POST", f"/rooms/{self.room_id}/leave", {})
        self.settle(2)
        self.gateways.take()
        self.send("alice")
        self.assertEqual([], self.gateways.take())

    def test_rules_of_ones_own(self) -> None:
        self.set_pusher("bob", pushkey="bob")
        self.set_pusher("carol", pushkey="carol")
        self.ok("bob", "PUT", f"/pushrules/global/room/{self.room_id}", {"actions": []})
        self.ok("carol", "PUT", "/pushrules/global/content/cake", {
            "pattern": "cake", "actions": ["notify", {"set_tweak": "sound", "value": "alarm.wav"}]
        })  # fmt: skip
        self.send(body="there is cake")
        (told,) = self.gateways.take()
        self.assertEqual("carol", told["devices"][0]["pushkey"])
        self.assertEqual({"sound": "alarm.wav"}, told["devices"][0]["tweaks"])
        self.ok("bob", "PUT", "/pushrules/global/override/named", {
            "conditions": [{"kind": "contains_display_name"}], "actions": ["notify"]
        })  # fmt: skip
        self.ok("bob", "PUT", f"/profile/{user('bob')}/displayname", {"displayname": "Robert"})
        self.settle(2)
        self.gateways.take()
        self.send(body="hello robert")
        self.assertEqual({"bob", "carol"}, {one["devices"][0]["pushkey"] for one in self.gateways.take()})

    def test_every_pusher_of_everybody(self) -> None:
        self.set_pusher(pushkey="one")
        self.set_pusher(pushkey="two", url="https://other.example/_matrix/push/v1/notify")
        self.send()
        self.assertEqual(
            {("one", "push.example"), ("two", "other.example")},
            {(one["devices"][0]["pushkey"], url.split("/")[2]) for url, one in self.gateways.told},
        )

    def test_an_invite(self) -> None:
        self.set_pusher()
        room_id = self.make_room("alice", preset="private_chat", name="Cellar", invite=[user("bob")])
        self.settle()
        (told,) = self.gateways.take()
        self.assertEqual(
            (room_id, "Cellar", True), (told["room_id"], told["room_name"], told["user_is_target"])
        )
        self.assertEqual("invite", told["membership"])
        self.assertEqual({"sound": "default"}, told["devices"][0]["tweaks"])

    def test_names_of_rooms_without_a_name(self) -> None:
        self.set_pusher()
        room_id = self.make_room("alice", "bob")
        self.ok("alice", "PUT", f"/profile/{user('alice')}/displayname", {"displayname": "Alice"})
        self.settle(2)
        self.send(room_id=room_id)
        self.send()
        self.assertEqual(
            ["Alice", "carol and Alice"],
            [one["room_name"] for one in self.gateways.take() if "event_id" in one],
        )

    def test_switched_off(self) -> None:
        self.set_pusher(changes={"org.matrix.msc3881.enabled": False})
        (pusher,) = self.ok("bob", "GET", "/pushers")["pushers"]
        self.assertFalse(pusher["org.matrix.msc3881.enabled"])
        self.send()
        self.assertEqual([], self.gateways.take())
        self.set_pusher(changes={"org.matrix.msc3881.enabled": True})
        self.send()
        self.assertEqual(1, len(self.gateways.take()))


@on_each_database
class Many(PushCase):
    def test_one_evaluation_for_each_set_of_rules(self) -> None:
        names = [f"member{number}" for number in range(8)]
        for name in names:
            self.tokens[name] = self.app.register(name)
            self.ok(name, "POST", f"/join/{self.room_id}", {})
            self.set_pusher(name, pushkey=name)
        # Two have changed the same, one something else.
        for name in names[:2]:
            self.ok(
                name, "PUT", "/pushrules/global/override/.m.rule.suppress_notices/enabled", {"enabled": False}
            )
        self.ok(names[2], "PUT", "/pushrules/global/underride/.m.rule.message/actions", {"actions": []})
        self.settle()
        self.gateways.take()
        asked: list[object] = []
        original = CompiledRules.evaluate

        def count(rules: CompiledRules, *args: Any) -> Any:
            asked.append(rules)
            return original(rules, *args)

        pushing = self.app.app.outgoing.pushing
        assert pushing is not None
        # Who has read what is counted apart.
        self.patch(pushing.sender, "_total", lambda _: succeed(1))
        self.patch(Unread, "has_read", lambda *_: succeed(False))
        self.patch(CompiledRules, "evaluate", count)
        self.send(content={"msgtype": "m.notice"})
        self.assertEqual(set(names[:2]), self.keys())
        self.assertLessEqual(len(asked), 2 * len(set(asked)))  # again where a fact was missing
        asked.clear()
        self.send()
        self.assertEqual(set(names) - {names[2]}, self.keys())
        self.assertEqual((3, 3), (len(asked), len(set(asked))))
        asked.clear()
        # Whom it names is another matter.
        self.send(content={"m.mentions": {"user_ids": [user(names[2]), user(names[3])]}})
        self.assertEqual(set(names), self.keys())
        self.assertEqual(4, len(asked))

    def keys(self) -> set[str]:
        told = self.gateways.take()
        return {one["devices"][0]["pushkey"] for one in told if "event_id" in one}

    def test_more_than_go_at_once(self) -> None:
        self.patch(follower, "_AT_ONCE", 2)
        names = [f"member{number}" for number in range(5)]
        for name in names:
            self.tokens[name] = self.app.register(name)
            self.ok(name, "POST", f"/join/{self.room_id}", {})
            self.set_pusher(name, pushkey=name)
        self.gateways.take()
        self.send()
        self.assertEqual(set(names), self.keys())

    def test_who_came_after_the_event(self) -> None:
        """The log is told again, from an earlier position."""
        self.tokens["dave"] = self.app.register("dave")
        self.set_pusher("dave", pushkey="dave")
        self.set_pusher("bob", pushkey="bob")
        core, pushing = self.app.app.core, self.app.app.outgoing.pushing
        assert pushing is not None
        before = core.changes.position
        self.send()
        changes = core.changes.since(before)
        assert changes is not None
        self.ok("dave", "POST", f"/join/{self.room_id}", {})
        # A new name is no new membership.
        self.ok("bob", "PUT", f"/profile/{user('bob')}/displayname", {"displayname": "Robert"})
        self.settle(1)
        self.assertEqual({"bob"}, self.keys())
        for links in pushing.sender.owners.values() if pushing.sender is not None else ():
            for link in links.values():
                link.newest = 0
        self.app.wait(ensureDeferred(pushing.follower.handle(changes)))  # type: ignore[arg-type]
        self.settle()
        self.assertEqual({"bob"}, self.keys())

    def test_a_count_that_the_database_cannot_tell(self) -> None:
        self.set_pusher()
        event_id = self.send()
        pushing = self.app.app.outgoing.pushing
        assert pushing is not None and pushing.sender is not None
        total = pushing.sender._total
        pushing.sender._total = lambda _: fail(DatabaseUnavailable("gone"))
        self.read("bob", event_id)
        self.settle(2)
        pushing.sender._total = total
        self.wait_for(60)
        self.assertEqual([event_id, "0"], self.told())

    def test_the_database_is_away(self) -> None:
        self.set_pusher()
        failing = [True]
        original = Composer.subject

        async def fail(composer: Composer, *args: Any) -> Any:
            if failing[0]:
                raise DatabaseUnavailable("away")
            return await original(composer, *args)

        self.patch(Composer, "subject", fail)
        event_id = self.send()
        self.wait_for(30)
        self.assertEqual([], self.told())
        failing[0] = False
        self.wait_for(30)
        self.assertEqual([event_id], self.told())


@on_each_database
class Threads(PushCase):
    """Subscriptions of threads. proposal: MSC4306"""

    PUT = rows(
        thread_subscriptions,
        *thread_subscriptions.c.keys(),
        keys=("user_nid", "room_nid", "root_nid"),
        update=("subscribed",),
    )

    def subscribe(self, root: str, subscribed: bool) -> None:
        core = self.app.app.core
        user_nid, room_nid = core.interner.known_user(user("bob")), core.interner.known_room(self.room_id)
        assert user_nid is not None and room_nid is not None

        def unit(tx: WriteTx) -> None:
            row = find_row(tx, root)
            assert row is not None
            tx.claim(
                Kind.THREAD_SUBSCRIPTION,
                -user_nid,
                room_nid,
                lambda tx, pos: tx.insert(
                    self.PUT, [(user_nid, room_nid, row.nid, int(subscribed), 0, 0, pos)]
                ),
            )

        self.app.wait(core.committer.work(unit))
        self.settle()

    def test_only_what_one_wants_to_hear(self) -> None:
        self.set_pusher()
        root, other = self.send(), self.send()
        self.gateways.take()

        def say(where: str) -> list[str]:
            event_id = self.send(content={"m.relates_to": {"rel_type": "m.thread", "event_id": where}})
            return ["told" for one in self.gateways.take() if one.get("event_id") == event_id]

        def unread() -> Any:
            filter_ = '{"room":{"timeline":{"unread_thread_notifications":true}}}'
            room = self.ok("bob", "GET", "/sync", None, filter=filter_)["rooms"]["join"][self.room_id]
            found = room.get("unread_thread_notifications", {})
            return {where: one["notification_count"] for where, one in found.items()}

        # Who does not know of subscriptions hears of threads as of everything.
        self.assertEqual((["told"], ["told"]), (say(root), say(other)))
        self.assertEqual({root: 1, other: 1}, unread())
        self.subscribe(root, True)
        self.assertEqual((["told"], []), (say(root), say(other)))
        self.assertEqual({root: 2, other: 1}, unread())
        self.subscribe(root, False)
        self.assertEqual(([], []), (say(root), say(other)))
        self.ok("bob", "PUT", "/pushrules/global/postcontent/.io.element.msc4306.rule.unsubscribed_thread/enabled", {
            "enabled": False
        })  # fmt: skip
        self.assertEqual((["told"], ["told"]), (say(root), say(other)))


@on_each_database
class Badges(PushCase):
    def test_told_when_it_becomes_less(self) -> None:
        self.set_pusher(data={"format": "event_id_only"})
        first, second = self.send(), self.send()
        self.assertEqual([1, 2], [one["counts"]["unread"] for one in self.gateways.take()])
        self.read("bob", first)
        self.assertEqual([], self.gateways.take())  # not at once: more may follow
        self.read("bob", second)
        self.settle(1)
        (told,) = self.gateways.take()
        self.assertEqual({"unread": 0}, told["counts"])
        self.assertNotIn("event_id", told)
        self.assertEqual("low", told["prio"])
        # And no more while nothing changes.
        self.read("bob", second)
        self.settle(2)
        self.assertEqual([], self.gateways.take())

    def test_by_an_answer_and_by_leaving(self) -> None:
        other = self.make_room("alice", "bob")
        self.set_pusher()
        self.send()
        self.send(room_id=other)
        self.gateways.take()
        self.send("bob", "an answer")
        self.settle(1)
        self.assertEqual(["1"], self.told())
        self.ok("bob", "POST", f"/rooms/{other}/leave", {})
        self.settle(1)
        self.settle(1)
        self.assertEqual(["0"], self.told())

    def test_threads_count(self) -> None:
        root = self.send()
        self.set_pusher()
        self.send(content={"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
        self.assertEqual([2], [one["counts"]["unread"] for one in self.gateways.take()])
        self.read("bob", root, thread="main")
        self.settle(1)
        self.assertEqual(["1"], self.told())

    def test_whoever_counts_by_themselves(self) -> None:
        self.set_pusher(data={"org.matrix.msc4076.disable_badge_count": True})
        event_id = self.send()
        (told,) = self.gateways.take()
        self.assertNotIn("counts", told)
        self.read("bob", event_id)
        self.settle(2)
        self.assertEqual([], self.gateways.take())


@on_each_database
class Failing(PushCase):
    def test_tried_again_later_and_later(self) -> None:
        self.set_pusher()
        for problem in ((500, b""), (404, b"{}"), (302, b""), Unreachable("nobody there")):
            self.gateways.say = lambda url, notification, problem=problem: problem  # type: ignore[misc]
            event_id = self.send()
            self.wait_for(10 * 60, 300)
            tries = self.told()
            self.assertEqual({event_id}, set(tries))
            self.assertTrue(5 <= len(tries) <= 12, tries)
            self.gateways.say = lambda url, notification: OK
            self.wait_for(HOUR_S, 20)
            self.assertEqual([event_id], self.told())
            self.wait_for(2 * HOUR_S)
            self.assertEqual([], self.told())

    def test_set_again_by_its_client(self) -> None:
        self.set_pusher()
        self.gateways.say = lambda url, notification: (500, b"")
        event_id = self.send()
        self.wait_for(HOUR_S)
        self.gateways.take()
        self.gateways.say = lambda url, notification: OK
        self.set_pusher(url="https://better.example/_matrix/push/v1/notify")
        self.assertEqual([event_id], self.told())

    def test_the_newest_are_kept(self) -> None:
        self.set_pusher()
        self.gateways.say = lambda url, notification: (503, b"")
        sent = [self.send() for _ in range(module.OWED_MOST + 3)]
        self.wait_for(HOUR_S)
        self.gateways.take()
        self.gateways.say = lambda url, notification: OK
        self.wait_for(HOUR_S)
        self.assertEqual(sent[3:], self.told())

    def test_old_ones_are_given_up(self) -> None:
        self.set_pusher()
        self.gateways.say = lambda url, notification: (503, b"")
        self.send()
        self.wait_for(25 * HOUR_S, 100)
        self.gateways.take()
        self.gateways.say = lambda url, notification: OK
        event_id = self.send()
        self.wait_for(2 * HOUR_S)
        self.assertEqual([event_id], self.told())

    def test_what_was_read_or_redacted_meanwhile(self) -> None:
        self.set_pusher()
        self.gateways.say = lambda url, notification: (503, b"")
        read, redacted, event_id = self.send(), self.send(), self.send()
        self.read("bob", read)
        self.ok("alice", "PUT", f"/rooms/{self.room_id}/redact/{redacted}/x", {})
        self.settle()
        self.gateways.take()
        self.gateways.say = lambda url, notification: OK
        self.wait_for(60)
        self.assertEqual([event_id], self.told())

    def test_what_was_answered_meanwhile(self) -> None:
        root = self.send()
        self.set_pusher()
        self.gateways.say = lambda url, notification: (503, b"")
        thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
        invited = self.make_room("alice", preset="private_chat", invite=[user("bob")])
        self.settle()
        self.send()
        within = self.send(content=thread)
        self.send("bob", "an answer")
        self.ok("bob", "POST", f"/join/{invited}", {})
        event_id = self.send()
        self.gateways.take()
        self.gateways.say = lambda url, notification: OK
        self.wait_for(60)
        self.assertEqual([within, event_id], self.told())

    def test_over_a_restart(self) -> None:
        self.set_pusher()
        self.gateways.say = lambda url, notification: (503, b"")
        first = self.send()
        self.wait_for(HOUR_S)
        self.gateways.take()
        self.restart()
        # It goes on waiting, and has lost nothing.
        self.assertEqual([], self.told())
        second = self.send()
        self.assertEqual([], self.told())
        self.gateways.say = lambda url, notification: OK
        self.wait_for(HOUR_S)
        self.assertEqual([first, second], self.told())
        self.restart()
        self.wait_for(60)
        self.assertEqual([], self.told())

    def test_a_restart_while_one_is_on_its_way(self) -> None:
        self.set_pusher()
        self.gateways.say = lambda url, notification: None
        event_id = self.send()
        self.assertEqual([event_id], self.told())
        self.restart()
        self.gateways.say = lambda url, notification: OK
        self.wait_for(60)
        self.assertEqual([event_id], self.told())

    def test_a_restart_after_it_was_set_again_while_one_is_on_its_way(self) -> None:
        self.set_pusher()
        self.gateways.say = lambda url, notification: None if url == URL else (503, b"")
        event_id = self.send()
        self.set_pusher(url="https://better.example/_matrix/push/v1/notify")
        self.assertEqual([event_id] * 2, self.told())
        self.gateways.hanging.pop().callback(HttpResponse(URL, *OK))
        self.settle()
        self.restart()
        self.gateways.say = lambda url, notification: OK
        self.wait_for(60)
        self.assertEqual([event_id], self.told())

    def test_a_crash(self) -> None:
        self.set_pusher()
        self.settle(10)
        sent = [self.send(), self.send()]
        self.assertEqual(sent, self.told())
        # The process is gone before the cursor is stored: told again, and gateways know them by their ids.
        self.app.app = self.app._build()
        self.app.app.begin()
        self.settle()
        self.assertEqual(sent, self.told())

    def test_the_log_does_not_wait(self) -> None:
        self.set_pusher("bob")
        self.set_pusher("carol", "other", "https://other.example/_matrix/push/v1/notify")
        self.gateways.say = lambda url, notification: None if url == URL else OK
        sent = [self.send() for _ in range(3)]
        found = [one["event_id"] for url, one in self.gateways.told if url != URL]
        self.assertEqual(sent, found)
        self.assertEqual(1, len(self.gateways.hanging))


@on_each_database
class Rejected(PushCase):
    def reject(self, _: str, notification: dict[str, Any]) -> tuple[int, bytes]:
        return 200, b'{"rejected":["%b"]}' % notification["devices"][0]["pushkey"].encode()

    def test_ends_the_pusher(self) -> None:
        self.set_pusher(pushkey="bad")
        self.set_pusher(pushkey="good", url="https://other.example/_matrix/push/v1/notify")
        self.gateways.say = lambda url, one: self.reject(url, one) if url == URL else OK
        self.send()
        self.assertEqual(["good"], self.pushers())
        self.gateways.take()
        self.send()
        self.assertEqual(1, len(self.gateways.take()))

    def test_but_not_one_that_was_set_meanwhile(self) -> None:
        self.set_pusher()
        self.gateways.say = lambda url, notification: None
        self.send()
        self.app.advance(5)
        self.set_pusher(changes={"lang": "de"})
        self.gateways.hanging[0].callback(HttpResponse(URL, 200, b'{"rejected":["key"]}'))
        self.settle()
        self.assertEqual(["key"], self.pushers())

    def test_others_keys_and_nonsense(self) -> None:
        self.set_pusher()
        for body in (
            b'{"rejected":["other",1,null]}',
            b"garbage",
            b"[]",
            b'{"rejected":1}',
            b"\xff",
            b"[" * 9000,
        ):
            self.gateways.say = lambda url, notification, body=body: (200, body)  # type: ignore[misc]
            event_id = self.send()
            self.wait_for(60)
            self.assertEqual([event_id], self.told(), body[:20])
        self.assertEqual(["key"], self.pushers())

    def test_a_device_that_ends(self) -> None:
        self.set_pusher()
        self.send()
        self.gateways.take()
        self.tokens["bob"] = self.app.ok("POST", "/_matrix/client/v3/login", {
            "type": "m.login.password", "user": "bob", "password": "correct horse"
        })["access_token"]  # fmt: skip
        self.set_pusher(pushkey="second")
        devices = [
            one["device_id"]
            for one in self.ok("bob", "GET", "/pushers")["pushers"]
            for one in [{"device_id": one["org.matrix.msc3881.device_id"]}]
        ]
        self.assertEqual(2, len(set(devices)))
        self.ok("bob", "POST", "/logout", {})
        self.settle()
        self.send()
        self.assertEqual(["key"], [one["devices"][0]["pushkey"] for one in self.gateways.take()])
