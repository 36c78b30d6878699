"""The witness of every test sees what is wrong, and what no test has tried is told."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from homeserver.http.request import Headers, Request
from homeserver.http.route import Match, Route
from homeserver.http.router import ALL_GROUPS
from tests.conformance.exercise import Met, lacking
from tests.conformance.witness import Witness, call_witness
from tests.support.http import Answer

JSON = {"content-type": "application/json"}
WHOAMI = "/_matrix/client/v3/account/whoami"
DEVICE = "/_matrix/client/v3/devices/{device_id:device_id}"


async def _nobody(_: Request) -> None:
    raise AssertionError


def request_of(
    template: str, target: str, spec: str = "client-server-api#whoami", method: str = "GET"
) -> Request:
    route = Route(method=method, template=template, handler=_nobody, spec=spec)
    match = Match(route, ())
    return Request(method, target.encode(), Headers(), match=match, serve=ALL_GROUPS, client_ip="192.0.2.1")


class WitnessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.witness: Witness = call_witness()

    def seen(self, target: str, status: int, json: Any, **more: Any) -> list[str]:
        self.witness(request_of(WHOAMI, target, **more), Answer(status, JSON, _encode(json), json))
        return self.witness.take_problems()

    def test_answers_that_break_a_schema(self) -> None:
        if self.witness.judges is False:
            raise SkipTest("the files of the Matrix specification are not here (see MATRIX_SPEC_DIR)")
        self.assertEqual([], self.seen(WHOAMI, 200, {"user_id": "@a:b"}))
        for status, wrong in ((200, {"user_id": 1}), (200, {}), (202, {}), (403, {"error": "x"})):
            self.assertNotEqual([], self.seen(WHOAMI, status, wrong), (status, wrong))
        self.assertEqual([], self.witness.take_problems(), "what was taken is gone")

    def test_an_invite_comes_back_without_an_origin_if_it_came_so(self) -> None:
        if self.witness.judges is False:
            raise SkipTest("the files of the Matrix specification are not here (see MATRIX_SPEC_DIR)")
        template = "/_matrix/federation/v2/invite/{room_id:room_id}/{event_id:event_id}"
        event = {
            "type": "m.room.member",
            "sender": "@a:b",
            "state_key": "@c:d",
            "origin_server_ts": 1,
            "content": {"membership": "invite"},
        }
        request = request_of(template, "/_matrix/federation/v2/invite/!r:b/$e", method="PUT")
        for json, is_good in (
            ({"event": event}, True),
            ({"event": {**event, "sender": 1}}, False),
            ({}, False),
        ):
            self.witness(request, Answer(200, JSON, _encode(json), json))
            self.assertEqual(is_good, not self.witness.take_problems(), json)

    def test_failures_of_ours_are_seen_without_the_specification(self) -> None:
        self.witness = Witness(None)
        self.assertEqual([], self.seen(WHOAMI, 404, {"errcode": "M_NOT_FOUND", "error": "x"}))
        self.assertNotEqual([], self.seen(WHOAMI, 500, {"errcode": "M_UNKNOWN", "error": "x"}))
        self.assertEqual({(404, "M_NOT_FOUND"), (500, "M_UNKNOWN")}, self.witness.outcomes["GET", WHOAMI])

    def test_other_apis_are_not_its_affair(self) -> None:
        self.assertEqual([], self.seen("/_chaos/v1/x", 500, {}, spec=""))
        self.assertEqual({}, self.witness.outcomes)

    def test_a_part_of_an_event_is_no_event(self) -> None:
        wanted = '/_matrix/client/v3/sync?filter={"event_fields":["type"]}'
        room = {"timeline": {"events": [{"type": "m.room.message"}]}}
        json = {"next_batch": "s1", "rooms": {"join": {"!a:b": room}}}
        answer = Answer(200, JSON, _encode(json), json)
        self.witness(request_of("/_matrix/client/v3/sync", wanted), answer)
        self.assertEqual([], self.witness.take_problems())


class Exercise(SynchronousTestCase):
    def test_success_and_error_are_both_needed(self) -> None:
        served = [("GET", "/_matrix/client/v3/devices/{}")]
        ok: Met = ("GET", DEVICE, 200, "")
        unknown: Met = ("GET", DEVICE, 404, "M_NOT_FOUND")
        self.assertEqual([], lacking([ok, unknown], served))
        self.assertEqual(1, len(lacking([ok], served)))
        self.assertEqual(1, len(lacking([unknown], served)))
        self.assertEqual(2, len(lacking([], served)))
        self.assertEqual([], lacking([], []), "what is not served is not asked for")


def _encode(json: Any) -> bytes:
    return msgspec.json.encode(json)
