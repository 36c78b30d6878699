"""A bridge whose ghosts are in rooms of another server."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from homeserver.appservices.existence import ATTEMPTS, SILENCE_S
from homeserver.appservices.outbox import RETRY_MAX_MS
from homeserver.config.registrations import Namespace, Pattern
from tests.api.rooms import V3
from tests.support.appservices import AS_TOKEN, Asked, FakeAppservices, registration
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.federation import TestNet

GHOST = "@_bridge_bob:b.example"


@on_each_database
class GhostsElsewhere(DatabaseCase):
    """Alice of a.example, and the bridge of b.example."""

    def setUp(self) -> None:
        self.net = TestNet(self)
        self.a = self.net.server("a.example", database=self.new_database())
        self.http = FakeAppservices()
        spaces: Any = {
            "users": (Namespace(Pattern("@_bridge_.*:b.example"), True),),
            "aliases": (Namespace(Pattern("#_bridge_.*:b.example"), True),),
        }
        self.b = self.net.server(
            "b.example",
            database=self.new_database(),
            appservice_http=self.http,
            registrations=[registration(**spaces)],
        )
        self.net.settle()
        self.alice = self.a.register("alice")
        body = {"type": "m.login.application_service", "username": "_bridge_bob", "inhibit_login": True}
        self.b.ok("POST", f"{V3}/register", body, AS_TOKEN)

    def as_ghost(self, path: str, **query: str) -> None:
        waiting = self.b.start("POST", f"{V3}/{path}", {}, AS_TOKEN, {"user_id": GHOST, **query})
        self.assertEqual(self.net.wait(waiting).status, 200)
        self.net.settle()

    def own(self) -> list[dict[str, Any]]:
        """The ghost's memberships that the bridge was told."""
        return [event for event in self.http.events() if event.get("state_key") == GHOST]

    def come_in(self) -> None:
        """Alice invites the ghost, who joins, leaves, and comes back on another invite."""
        body = {"preset": "private_chat", "is_direct": True, "invite": [GHOST]}
        created = self.net.wait(self.a.start("POST", f"{V3}/createRoom", body, self.alice))
        room_id = created.json["room_id"]
        self.net.settle()
        self.as_ghost(f"join/{room_id}", server_name="a.example")
        self.as_ghost(f"rooms/{room_id}/leave")
        again = {"user_id": GHOST, "reason": "come back"}
        invited = self.a.start("POST", f"{V3}/rooms/{room_id}/invite", again, self.alice)
        self.assertEqual(self.net.wait(invited).status, 200)
        self.net.settle()
        self.as_ghost(f"join/{room_id}", server_name="a.example")

    def check(self) -> None:
        joins = [event["unsigned"] for event in self.own() if event["content"]["membership"] == "join"]
        before = [one["prev_content"] for one in joins]
        self.assertEqual(["invite", "invite"], [one["membership"] for one in before])
        self.assertIs(before[0]["is_direct"], True)
        self.assertEqual("come back", before[1]["reason"])
        self.assertEqual(["@alice:a.example"] * 2, [one["prev_sender"] for one in joins])

    def test_an_invite_for_somebody_who_is_not_there_yet(self) -> None:
        def make(asked: Asked) -> tuple[int, Any]:
            if asked.path == "/_matrix/app/v1/users/@_bridge_new:b.example":
                body = {"type": "m.login.application_service", "username": "_bridge_new"}
                self.b.ok("POST", f"{V3}/register", {**body, "inhibit_login": True}, AS_TOKEN)
                return 200, {}
            return (200, {}) if "/transactions/" in asked.path else (404, {"errcode": "M_NOT_FOUND"})

        self.http.answer = make
        created = self.net.wait(self.a.start("POST", f"{V3}/createRoom", {}, self.alice))
        path = f"{V3}/rooms/{quote(created.json['room_id'])}/invite"
        for name, status in (("_bridge_new", 200), ("_bridge_none", 403), ("nobody", 403)):
            invite = self.a.start("POST", path, {"user_id": f"@{name}:b.example"}, self.alice)
            self.assertEqual(status, self.net.wait(invite).status, name)
        self.net.settle()
        invited = [event["state_key"] for event in self.http.events()]
        self.assertEqual(["@_bridge_new:b.example"], invited)

    def test_who_is_asked_for_while_the_bridge_is_away(self) -> None:
        self.http.answer = lambda _: None
        stranger = self.net.stranger("evil.example")
        query = "/_matrix/federation/v1/query"
        for uri in (
            f"{query}/directory?room_alias={quote('#_bridge_new:b.example')}",
            f"{query}/profile?user_id={quote('@_bridge_new:b.example')}",
        ):
            status, answer = stranger.ask("b.example", "GET", uri)
            self.assertEqual((404, "M_NOT_FOUND"), (status, answer["errcode"]), uri)
            self.net.advance(SILENCE_S)
        self.assertEqual(2 * ATTEMPTS, len([one for one in self.http.asked if one.method == "GET"]))

    def test_what_a_ghost_accepted_is_told(self) -> None:
        self.come_in()
        self.check()

    def test_what_a_ghost_accepted_while_the_bridge_was_away(self) -> None:
        self.http.answer = lambda _: None
        self.come_in()
        self.b.restart()
        self.net.settle()
        self.http.asked.clear()
        self.http.answer = lambda _: (200, {})
        self.net.advance(RETRY_MAX_MS / 1000)
        self.net.settle()
        self.check()
