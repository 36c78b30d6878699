"""What goes over a network of tests, looked at by the specification as it passes.

Watched are the requests that our servers send, and the answers that they give, with the events and EDUs in both. What a
stranger sends is the test's affair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from federation.ids import ServerName
from homeserver.app import ExtraRoutes
from homeserver.http.router import Router
from homeserver.http.transport import PeerRequest, PeerResponse
from tests.conformance.specification import Specification, problems
from tests.support.federation import NetServer, TestNet
from tests.support.http import Answer, HttpHarness

# The file that describes the events of a room version: that of the newest version that is not newer.
PDU_FILES = {
    1: "v1",
    2: "v1",
    3: "v3",
    4: "v4",
    5: "v4",
    6: "v6",
    7: "v6",
    8: "v6",
    9: "v6",
    10: "v6",
    11: "v11",
    12: "v12",
}
MAX_AUTH_EVENTS, MAX_PREV_EVENTS = 10, 20
_CREATED = ({"type": "m.room.create", "signatures": {}, "auth_events": [], "depth": 1},)
_NO_ROOM_ID = '$: "room_id" is a required property'


class Watch:
    """Collects what is wrong, and which operations were met, with which outcome."""

    def __init__(self, specification: Specification) -> None:
        self._specification = specification
        self._versions: dict[str, str] = {}
        self.problems: list[str] = []
        self.sent: set[str] = set()
        # The last request with a body, by operation and kind of EDU: who sent it, and what.
        self.bodies: dict[str, tuple[ServerName, PeerRequest]] = {}
        # And without one.
        self.questions: dict[str, tuple[ServerName, PeerRequest]] = {}
        self.outcomes: defaultdict[str, set[tuple[int, str | None]]] = defaultdict(set)

    def know_room(self, room_id: str, version: str) -> None:
        """Whose events to expect in which format."""
        self._versions[room_id] = version

    def request(self, origin: ServerName, request: PeerRequest) -> None:
        """One of our servers sends this."""
        operation = self._specification.find(request.method, request.uri.partition("?")[0])
        if operation is None:
            self._note(f"{request.method} {request.uri}", "request", ["no such endpoint"])
            return
        self.sent.add(operation.name)
        self._note(operation.name, "request", operation.problems_of_request(request.uri, request.body))
        if request.body is None:
            # What is asked for has no body; what is told has one.
            self.questions[operation.name] = origin, request
        else:
            body = msgspec.json.decode(request.body)
            edus = body.get("edus") or ({"edu_type": ""},)
            self.bodies[f"{operation.name} {edus[0]['edu_type']}"] = origin, request
            self._look_into(operation.name, body)
            self._note(operation.name, "request", list(_problems_of_promises(body)))

    def answer(self, method: str, uri: str, answer: Answer) -> None:
        """One of our servers says this."""
        operation = self._specification.find(method, uri.partition("?")[0])
        if operation is None:
            return
        self.outcomes[operation.name].add((answer.status, answer.errcode))
        where = f"answer {answer.status} {answer.errcode or ''}"
        if answer.status >= 500 and answer.status not in operation.statuses | {502}:
            self._note(operation.name, where, [str(answer.json)])
        self._note(
            operation.name,
            where,
            operation.problems_of_answer(answer.status, answer.headers, answer.body),
        )
        if "/federation/" in operation.template and answer.json is not None:
            self._look_into(operation.name, answer.json)
            self._note(operation.name, where, list(_problems_of_promises(answer.json)))

    def _note(self, name: str, where: str, found: Sequence[str]) -> None:
        self.problems += [f"{name}: {where}: {problem}" for problem in found]

    def _look_into(self, name: str, value: Any) -> None:
        folder = self._specification.folder / "api" / "server-server" / "definitions"
        for one in _objects(value):
            if isinstance(one.get("edu_type"), str):
                path = folder / "event-schemas" / f"{one['edu_type']}.yaml"
                if path.exists():
                    self._note(name, one["edu_type"], problems(path, "", one))
                else:
                    self._note(name, "EDU", [f"{one['edu_type']} is not specified"])
            if {"hashes", "auth_events", "prev_events", "sender"} <= one.keys():
                self._note(name, f"PDU {one.get('type')}", list(self._problems_of_pdu(one)))

    def _problems_of_pdu(self, pdu: dict[str, Any]) -> Iterator[str]:
        is_create = pdu["type"] == "m.room.create"
        version = pdu["content"].get("room_version", "1") if is_create else self._versions.get(pdu["room_id"])
        if version is None:
            yield f"of a room that the test did not name: {pdu['room_id']}"
            return
        number = int(version)
        folder = self._specification.folder / "api" / "server-server" / "definitions"
        for problem in problems(folder / f"pdu_{PDU_FILES[number]}.yaml", "", pdu):
            # The schema cannot say what its text says: "Omitted from m.room.create events".
            if not (is_create and number >= 12 and problem == _NO_ROOM_ID):
                yield problem
        if is_create and number >= 12 and "room_id" in pdu:
            yield "a create event with a room id"
        if number >= 3 and "event_id" in pdu:
            yield "an event id inside of the event"
        if len(pdu["auth_events"]) > MAX_AUTH_EVENTS or len(pdu["prev_events"]) > MAX_PREV_EVENTS:
            yield "too many references"


def _problems_of_promises(body: Any) -> Iterator[str]:
    """What the descriptions demand and the schemas do not."""
    if not isinstance(body, dict):
        return
    if body.get("members_omitted") and not body.get("servers_in_room"):
        yield "members are omitted, and it does not say which servers there are"
    unsigned = body.get("unsigned")
    for holder in (body, unsigned if isinstance(unsigned, dict) else {}):
        for name in ("invite_room_state", "knock_room_state"):
            state = holder.get(name, _CREATED)
            if not all({"signatures", "auth_events", "depth"} <= one.keys() for one in state):
                yield f"{name} has entries that are no events"
            if not any(one["type"] == "m.room.create" for one in state):
                yield f"{name} has no create event"


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object, but for what is inside of events."""
    if isinstance(value, list):
        for one in value:
            yield from _objects(one)
    elif isinstance(value, dict):
        yield value
        if "hashes" not in value:
            for one in value.values():
                yield from _objects(one)


class WatchedHttp(HttpHarness):
    """Shows every answer to the watch."""

    def __init__(self, router: Router, watch: Watch) -> None:
        super().__init__(router)
        self._watch = watch

    def call(self, method: str, path: str, *args: Any, **kwargs: Any) -> Deferred[Answer]:
        def look(answer: Answer) -> Answer:
            self._watch.answer(method, path, answer)
            return answer

        return super().call(method, path, *args, **kwargs).addCallback(look)


class WatchedNet(TestNet):
    """A network under watch."""

    __test__ = False

    def __init__(self, case: TestCase, watch: Watch) -> None:
        super().__init__(case)
        self.watch = watch

    def server(self, name: str, *, extra_routes: Sequence[ExtraRoutes] = (), **options: Any) -> NetServer:
        server = super().server(name, extra_routes=extra_routes, **options)
        server.http = WatchedHttp(server.app.router, self.watch)
        return server

    def carry(
        self, origin: ServerName, request: PeerRequest, receive: Callable[[bytes], None] | None
    ) -> Deferred[PeerResponse]:
        if origin in self.servers:
            self.watch.request(origin, request)
        return super().carry(origin, request, receive)

    def carry_unseen(self, origin: ServerName, request: PeerRequest) -> Deferred[PeerResponse]:
        """For requests that a test makes in a server's name."""
        return super().carry(origin, request, None)
