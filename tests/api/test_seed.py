"""The sample community: there as ordinary data, and made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.trial import unittest

from homeserver.cli.operations import OperationError
from homeserver.config.schema import RateLimits, Registration
from homeserver.http.errors import forbidden
from homeserver.seed.content import PASSWORD, PEOPLE, SERVERS, TALK
from homeserver.seed.making import Seeding, present_logins, seed
from tests.support.app import TestApp, test_config

CLIENT = "/_matrix/client/v3"


class SampleCommunity(unittest.TestCase):
    """What a client finds after the first start of a development server."""

    def setUp(self) -> None:
        self.app = TestApp(self)

    def seed(self) -> Any:
        return self.app.wait(Deferred.fromCoroutine(seed(self.app.app)))

    def log_in(self, localpart: str) -> str:
        identifier = {"type": "m.id.user", "user": localpart}
        body = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        token: str = self.app.ok("POST", f"{CLIENT}/login", body)["access_token"]
        return token

    def rooms_of(self, token: str) -> dict[str, dict[str, Any]]:
        """Joined rooms by name: `state` by (type, state key), and the `timeline`."""
        narrow = '{"room":{"timeline":{"limit":100}}}'
        joined = self.app.ok("GET", f"{CLIENT}/sync", token=token, query={"filter": narrow})["rooms"]["join"]
        found = {}
        for room_id, room in joined.items():
            timeline = room["timeline"]["events"]
            state = {
                (event["type"], event["state_key"]): event["content"]
                for event in [*room["state"]["events"], *timeline]
                if "state_key" in event
            }
            found[state["m.room.name", ""]["name"]] = {"id": room_id, "state": state, "timeline": timeline}
        return found

    def test_promises(self) -> None:
        # product: 2 servers of at least 3 channels, 5 users, 10 messages.
        self.assertEqual((len(SERVERS), len(PEOPLE), len(TALK)), (2, 5, 10))
        self.assertTrue(all(len(server.channels) >= 3 for server in SERVERS))
        self.assertTrue(any(message.replies_to for message in TALK))
        self.assertTrue(any(message.edited_to for message in TALK))
        self.assertTrue(any(message.reactions for message in TALK))

    def test_everybody_finds_servers_channels_and_talk(self) -> None:
        report = self.seed()
        self.assertTrue(report.created)
        for person in PEOPLE:
            self.assertTrue(any(f"@{person.localpart}:test.example" in line for line in report.lines))
            token = self.log_in(person.localpart)
            rooms = self.rooms_of(token)
            names = {server.name for server in SERVERS} | {
                channel.name for server in SERVERS for channel in server.channels
            }
            self.assertEqual(set(rooms), names)
            profile = self.app.ok("GET", f"{CLIENT}/profile/@{person.localpart}:test.example", token=token)
            self.assertEqual(profile["displayname"], person.name)
            messages = [
                event
                for room in rooms.values()
                for event in room["timeline"]
                if event["type"] == "m.room.message" and _relation(event) != "m.replace"
            ]
            self.assertEqual(len(messages), 10)

    def test_spaces_and_channels_point_at_each_other(self) -> None:
        self.seed()
        rooms = self.rooms_of(self.log_in("bee"))
        for server in SERVERS:
            space = rooms[server.name]
            self.assertEqual(space["state"]["m.room.create", ""]["type"], "m.space")
            self.assertEqual(space["state"]["m.room.topic", ""]["topic"], server.topic)
            children = {key for kind, key in space["state"] if kind == "m.space.child"}
            self.assertEqual(children, {rooms[channel.name]["id"] for channel in server.channels})
            self.assertGreaterEqual(space["state"]["m.room.power_levels", ""]["events_default"], 50)
            for channel in server.channels:
                state = rooms[channel.name]["state"]
                self.assertTrue(state["m.space.parent", space["id"]]["canonical"])
                self.assertEqual(state["im.chaos.channel", ""]["kind"], channel.kind)
                self.assertEqual(state["m.room.topic", ""]["topic"], channel.topic)
                self.assertEqual(
                    state["m.room.join_rules", ""],
                    {
                        "join_rule": "restricted",
                        "allow": [{"type": "m.room_membership", "room_id": space["id"]}],
                    },
                )

    def test_a_stranger_comes_in_through_the_front_door_only(self) -> None:
        self.seed()
        token = self.app.register("stranger")
        space = f"#{SERVERS[0].alias}:test.example".replace("#", "%23")
        channel = self.rooms_of(self.log_in("otto"))["workbench"]["id"].replace("!", "%21")
        status, _ = self.app.call("POST", f"{CLIENT}/rooms/{channel}/join", {}, token)
        self.assertEqual(status, 403)
        self.app.ok("POST", f"{CLIENT}/join/{space}", {}, token)
        self.app.ok("POST", f"{CLIENT}/rooms/{channel}/join", {}, token)

    def test_only_hosts_write_on_the_noticeboard(self) -> None:
        self.seed()
        token = self.log_in("mika")
        board = self.rooms_of(token)["noticeboard"]["id"].replace("!", "%21")
        path = f"{CLIENT}/rooms/{board}/send/m.room.message"
        status, _ = self.app.call("PUT", f"{path}/1", {"msgtype": "m.text", "body": "hi"}, token)
        self.assertEqual(status, 403)
        self.app.ok("PUT", f"{path}/2", {"msgtype": "m.text", "body": "hi"}, self.log_in("otto"))

    def test_made_once(self) -> None:
        self.seed()
        again = self.seed()
        self.assertEqual((again.created, again.lines), (False, ()))
        self.assertEqual(len(self.rooms_of(self.log_in("quill"))), 9)

    def test_somebody_who_is_here_already_is_left_alone(self) -> None:
        token = self.app.register("first")
        report = self.seed()
        self.assertFalse(report.created)
        self.assertIn("only where there is no account yet", report.lines[0])
        self.assertEqual(self.app.ok("GET", f"{CLIENT}/joined_rooms", token=token), {"joined_rooms": []})
        self.assertEqual(self.app.wait(Deferred.fromCoroutine(present_logins(self.app.app))), [])

    def test_given_up_halfway(self) -> None:
        """Who is killed while it is made is told, and not that it is there."""
        for broken in ("_make_server", "_say"):
            self.app = TestApp(self)
            with mock.patch.object(Seeding, broken, side_effect=RuntimeError("killed")):
                self.assertRaises(RuntimeError, self.seed)
            report = self.seed()
            self.assertFalse(report.created)
            self.assertIn("or not all of it", report.lines[0])

    def test_no_device_stays_behind(self) -> None:
        self.seed()
        devices = self.app.ok("GET", f"{CLIENT}/devices", token=self.log_in("otto"))["devices"]
        self.assertEqual(len(devices), 1)

    def test_logins_to_show(self) -> None:
        self.seed()
        logins = self.app.wait(Deferred.fromCoroutine(present_logins(self.app.app)))
        self.assertEqual(len(logins), 5)
        self.assertEqual({login.password for login in logins}, {PASSWORD})


class OnAStrictServer(unittest.TestCase):
    """`chaos seed` on a server that is not for development."""

    def test_closed_registration_and_rate_limits_do_not_matter(self) -> None:
        strict = test_config(
            registration=Registration(mode="closed"), rate_limits=RateLimits(), data_dir=Path(self.mktemp())
        )
        app = TestApp(self, config=strict)
        self.assertTrue(app.wait(Deferred.fromCoroutine(seed(app.app))).created)

    def test_a_refusal_is_told_in_one_line(self) -> None:
        app = TestApp(self)

        async def refuse(*_args: Any, **_more: Any) -> None:
            raise forbidden("not today")

        self.patch(app.app.services.rooms.creator, "create", refuse)
        with self.assertRaises(OperationError) as caught:
            app.wait(Deferred.fromCoroutine(seed(app.app)))
        self.assertIn("/createRoom: 403", str(caught.exception))

    def test_progress_reaches_its_end(self) -> None:
        app = TestApp(self)
        seen: list[tuple[int, int | None]] = []

        def note(label: str, done: int, total: int | None = None) -> None:
            seen.append((done, total))

        app.wait(Deferred.fromCoroutine(Seeding(app.app, note).run()))
        self.assertEqual(seen[-1][0], seen[-1][1])
        self.assertEqual([done for done, _ in seen], list(range(1, len(seen) + 1)))


def _relation(event: dict[str, Any]) -> str | None:
    kind: str | None = event["content"].get("m.relates_to", {}).get("rel_type")
    return kind
