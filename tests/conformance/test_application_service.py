"""What application services are asked, held against the official OpenAPI files: one busy hour of a bridge."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

from twisted.trial.unittest import SkipTest

from homeserver.config.registrations import AppserviceRegistration
from tests.api.test_appservice_questions import PING
from tests.api.test_appservice_transactions import GHOST, V3, BridgeCase
from tests.conformance.specification import Specification, find_folder
from tests.support.app import SERVER_NAME
from tests.support.appservices import AS_TOKEN, Asked, registration

APPLICATION_SERVICE = "application-service"
ALICE = f"@alice:{SERVER_NAME}"


class AskedTests(BridgeCase):
    def registrations(self) -> list[AppserviceRegistration]:
        return [registration(receive_ephemeral=True, encryption=True, protocols=("irc",))]

    def setUp(self) -> None:
        folder = find_folder()
        if folder is None:
            raise SkipTest("no copy of the specification: MATRIX_SPEC_DIR names one")
        self.specification = Specification(folder, (APPLICATION_SERVICE,))
        super().setUp()

    def test_everything(self) -> None:
        self.live_an_hour()
        found = [
            f"{one.method} {one.path}: {problem}" for one in self.http.asked for problem in self.judge(one)
        ]
        self.assertEqual([], found)
        operations = {one.name for one in self.specification.operations(APPLICATION_SERVICE)}
        seen = {operation.name for one in self.http.asked if (operation := self.find(one)) is not None}
        self.assertEqual(operations, seen, "each operation was asked")

    def live_an_hour(self) -> None:
        room_id = self.portal(name="portal", topic="of the specification")
        event_id = self.say(room_id, "hello")
        self.say(room_id, "mine", AS_TOKEN, GHOST)
        self.app.ok("POST", f"{V3}/rooms/{room_id}/receipt/m.read/{event_id}", {}, self.alice)
        typing = f"{V3}/rooms/{room_id}/typing/{ALICE}"
        self.app.ok("PUT", typing, {"typing": True, "timeout": 30_000}, self.alice)
        self.app.ok("PUT", f"{V3}/presence/{ALICE}/status", {"presence": "online"}, self.alice)
        path = f"{V3}/rooms/{room_id}/redact/{quote(event_id)}/r1"
        self.app.ok("PUT", path, {"reason": "tidy"}, self.alice)
        den = self.app.ok("POST", f"{V3}/createRoom", {"name": "den", "invite": [GHOST]}, self.alice)[
            "room_id"
        ]
        self.app.ok("POST", f"{V3}/rooms/{den}/leave", {}, self.alice)
        self.settle(1)
        self.app.ok("POST", PING, {"transaction_id": "meow"}, AS_TOKEN)
        self.app.ok("POST", PING, {}, AS_TOKEN)
        self.http.answer = lambda _: (404, {"errcode": "COM.EXAMPLE_NOT_FOUND"})
        for what in (f"profile/@_bridge_x:{SERVER_NAME}", f"directory/room/%23_bridge_x:{SERVER_NAME}"):
            self.assertEqual(404, self.app.call("GET", f"{V3}/{what}", None, self.alice)[0])
        for what in ("protocol/irc", "location/irc", "user/irc"):
            self.assertEqual(404, self.app.call("GET", f"{V3}/thirdparty/{what}", None, self.alice)[0])
        for what, name in (("location?alias=", "#x:a"), ("user?userid=", "@x:a")):
            kind, _, argument = what.partition("?")
            query = {argument.rstrip("="): name}
            answer = self.app.call("GET", f"{V3}/thirdparty/{kind}", None, self.alice, query)
            self.assertEqual(404, answer[0])

    def find(self, one: Asked) -> Any:
        return self.specification.find(one.method, quote(one.path))

    def judge(self, one: Asked) -> list[str]:
        operation = self.find(one)
        if operation is None:
            return ["nobody specifies this"]
        uri = quote(one.path) + (f"?{urlencode(one.query, doseq=True)}" if one.query else "")
        problems: list[str] = operation.problems_of_request(
            uri, json.dumps(one.body).encode() if one.body is not None else None
        )
        return problems
