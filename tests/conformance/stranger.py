"""Somebody who knows our description of the endpoints, and nothing else: requests that schemathesis draws from it.

A client in name only: it has an account and a room, and now and then uses their names where a parameter wants one, so that
what it sends is not refused at the first look every time. The answers must be such as the description declares.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from homeserver.extensions import load_extensions
from scripts.totals import REPOSITORY
from tests.support.app import SERVER_NAME, TestApp, test_config
from tests.support.http import Answer, path_of

DESCRIPTION = REPOSITORY / "docs" / "reference" / "openapi.json"
# A 500 is declared nowhere; other statuses of this kind are, where another server is to blame.
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
BASE_URL = f"https://{SERVER_NAME}"
V3 = "/_matrix/client/v3"
# The longest that any handler waits before it answers.
PATIENCE_S = 610


@cache
def operations() -> list[Any]:
    """Every endpoint of the description."""
    schema = schemathesis.openapi.from_dict(json.loads(DESCRIPTION.read_text("utf-8")))
    return [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]


@st.composite
def cases(draw: Any, of: list[Any] | None = None) -> tuple[Any, dict[str, int]]:
    """A request to some endpoint, and for some of its parameters the number of a name that exists."""
    case = draw(draw(st.sampled_from(of or operations())).as_strategy())
    names = sorted({*case.path_parameters, *case.query, *(case.body if isinstance(case.body, dict) else ())})
    real = {name: draw(st.integers(0, 3)) for name in names if draw(st.booleans())}
    return case, real


class Stranger:
    """Sends cases to a server of its own, and judges the answers."""

    def __init__(self, test: TestCase) -> None:
        config = test_config(data_dir=Path(test.mktemp()), public_url=f"https://{SERVER_NAME}")
        self.app = TestApp(test, config=config, extra_routes=[one.routes for one in load_extensions()])
        self._names = 0
        self._sign_up()

    def _sign_up(self) -> None:
        """An account with what an account has."""
        self._names += 1
        name = f"stranger{self._names}"
        self.token = self.app.register(name, device_id="PHONE")
        self.other = self.app.register(f"{name}.friend")
        room = self.app.ok(
            "POST", f"{V3}/createRoom", {"preset": "public_chat", "room_alias_name": name}, self.token
        )
        self.room_id: str = room["room_id"]
        self.app.ok("POST", path_of(f"{V3}/join/{{room}}", room=self.room_id), {}, self.other)
        send = path_of(f"{V3}/rooms/{{room}}/send/m.room.message/{{txn}}", room=self.room_id, txn=name)
        event_id = self.app.ok("PUT", send, {"msgtype": "m.text", "body": "hello"}, self.token)["event_id"]
        me, friend = f"@{name}:{SERVER_NAME}", f"@{name}.friend:{SERVER_NAME}"
        self._real: dict[str, tuple[Any, ...]] = {
            "room_id": (self.room_id,),
            "room": (self.room_id, f"#{name}:{SERVER_NAME}"),
            "event_id": (event_id,),
            "user_id": (me, friend),
            "sender": (me,),
            "room_alias": (f"#{name}:{SERVER_NAME}",),
            "device_id": ("PHONE",),
            "origin": (SERVER_NAME,),
            "dir": ("b", "f"),
            "event_type": ("m.room.message", "m.room.topic", "m.room.member", "m.room.power_levels"),
            "type": ("m.direct", "m.tag", "m.room.name"),
            "from": ("s1", "t1", "0"),
            "since": ("s1",),
            "limit": (1, 10, 0, -1),
            "timeout": (0, 1),
            "ts": (0, 1_700_000_000_000),
        }

    def _put_real(self, given: dict[str, Any], real: dict[str, int]) -> dict[str, Any]:
        known = {name: self._real[name] for name in given if name in real and name in self._real}
        return {**given, **{name: values[real[name] % len(values)] for name, values in known.items()}}

    def send(self, case: Any, real: dict[str, int]) -> Answer:
        """The answer, after which the stranger still has an account."""
        case.path_parameters = self._put_real(case.path_parameters, real)
        case.query = self._put_real(case.query, real)
        body = case.body
        if isinstance(body, dict):
            body = self._put_real(body, real)
        data = body if isinstance(body, bytes) else None if not _is_there(body) else json.dumps(body).encode()
        query = {name: value for name, value in case.query.items() if value is not None}
        call = self.app.http.call(case.method, case.formatted_path, data, self.token, query)
        answer = self._wait(call)
        if self.app.call("GET", f"{V3}/account/whoami", None, self.token)[0] != 200:
            self._sign_up()
        return answer

    def _wait(self, call: Deferred[Answer]) -> Answer:
        """Some wait for something that never comes."""
        answers: list[Any] = []
        call.addBoth(answers.append)
        self.app.advance(0)
        for _ in range(0, PATIENCE_S, 10):
            if answers:
                break
            self.app.advance(10)
        waiting: Deferred[Any] = Deferred()
        waiting.callback(answers[0] if answers else None)
        answer: Answer = self.app.wait(waiting)
        assert answer is not None, "no answer at all"
        return answer

    def judge(self, case: Any, answer: Answer) -> None:
        """Raise what schemathesis has against an answer."""
        request = requests.Request(case.method, BASE_URL + case.formatted_path).prepare()
        headers = {name: [value] for name, value in answer.headers.items()}
        case.validate_response(
            Response(answer.status, headers, answer.body, request, elapsed=0.0, verify=True), checks=CHECKS
        )


def _is_there(body: Any) -> bool:
    return not isinstance(body, schemathesis.core.NotSet)
