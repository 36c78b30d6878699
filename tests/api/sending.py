"""SendingCase: a server of ours, and other servers played by hand that take its transactions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from federation.versions import ROOM_VERSIONS
from homeserver.config.schema import Federation, Switch
from homeserver.http.transport import PeerRequest
from homeserver.store.outgoing import Owing, load_destinations
from tests.api.rooms import V3
from tests.api.servers import set_membership
from tests.support.databases import DatabaseCase
from tests.support.federation import Stranger, TestNet

SEND = "/_matrix/federation/v1/send/"
HOME = "home.example"
RULES = ROOM_VERSIONS["10"]


class Mailbox:
    """Another server, played by hand: takes transactions and answers what it is told."""

    def __init__(self, net: TestNet, name: str) -> None:
        self.name = name
        self.stranger: Stranger = net.stranger(name)
        self.stranger.answers["PUT", SEND] = self._take
        self.attempts: list[PeerRequest] = []
        self.taken: list[dict[str, Any]] = []  # transactions that were answered with 200
        self.answer: tuple[int, Any] | None = (200, {"pdus": {}})

    def _take(self, request: PeerRequest) -> tuple[int, Any] | None:
        self.attempts.append(request)
        if self.answer is not None and self.answer[0] == 200 and isinstance(self.answer[1], dict):
            self.taken.append(msgspec.json.decode(request.body or b""))
        return self.answer

    @property
    def pdus(self) -> list[dict[str, Any]]:
        return [pdu for transaction in self.taken for pdu in transaction["pdus"]]

    @property
    def edus(self) -> list[dict[str, Any]]:
        return [edu for transaction in self.taken for edu in transaction.get("edus", ())]

    def told(self, edu_type: str) -> list[dict[str, Any]]:
        """The contents of the EDUs of a type."""
        return [edu["content"] for edu in self.edus if edu["edu_type"] == edu_type]

    @property
    def bodies(self) -> list[str]:
        """What the messages among the events say."""
        return [pdu["content"]["body"] for pdu in self.pdus if pdu["type"] == "m.room.message"]


class SendingCase(DatabaseCase):
    """A server with alice in a public room, and other servers' users in it."""

    version = "10"
    presence = Switch(enabled=False)  # who says something is online, and that is told as well

    def setUp(self) -> None:
        self.net = TestNet(self)
        self.home = self.net.server(
            HOME, database=self.new_database(), federation=self.federation(), presence=self.presence
        )
        self.net.settle()
        self.alice = self.home.register("alice")
        self.room_id = self.create()

    def federation(self) -> Federation:
        return Federation(retry_min_s=1, retry_max_s=20)

    def create(self) -> str:
        body = {"preset": "public_chat", "room_version": self.version}
        room_id: str = self.home.ok("POST", f"{V3}/createRoom", body, self.alice)["room_id"]
        return room_id

    def join(self, *names: str, room_id: str | None = None) -> list[Mailbox]:
        """Servers with a user each in the room."""
        boxes = [Mailbox(self.net, name) for name in names]
        for box in boxes:
            self.move(f"@user:{box.name}", "join", room_id)
        self.net.settle()
        return boxes

    def move(self, user_id: str, membership: str, room_id: str | None = None, sender: str = "") -> None:
        set_membership(self.home, room_id or self.room_id, user_id, membership, sender)

    def say(self, body: str, room_id: str | None = None) -> str:
        path = f"{V3}/rooms/{room_id or self.room_id}/send/m.room.message/{body}"
        sent = self.home.ok("PUT", path, {"msgtype": "m.text", "body": body}, self.alice)
        return str(sent["event_id"])

    def owing(self) -> list[Owing]:
        return self.home.wait(self.home.database.read(load_destinations))

    @property
    def sender(self) -> Any:
        return self.home.app.outgoing.sender


def with_limits(config: Any, **changes: Any) -> Any:
    return replace(config, federation=replace(config.federation, **changes))
