"""The description of the endpoints, and a server that is held to it with requests that nobody thought of."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from schemathesis.core.failures import FailureGroup
from twisted.trial.unittest import TestCase

from homeserver.http.request import Request
from scripts.openapi import document, reads
from scripts.spec_coverage import all_routes
from tests.conformance.stranger import Stranger, cases, operations

# Of each endpoint; `make fuzz` draws more.
EXAMPLES = 4


def _limit(request: Request) -> int:
    return request.int_arg("limit", 5)


class Description(TestCase):
    def test_every_route_is_described(self) -> None:
        described = document(all_routes())["paths"]
        count = sum(len(operations) for operations in described.values())
        self.assertEqual(len({(route.method, route.template) for route in all_routes()}), count)

    def test_what_handlers_read(self) -> None:
        async def handler(request: Request) -> None:
            request.required_arg("dir")
            _limit(request)
            request.json(allow_empty=True)

        found = reads(handler)
        self.assertEqual({"dir": {"type": "string"}, "limit": {"type": "integer"}}, found.arguments)
        self.assertEqual(({"dir"}, True, True), (found.required, found.has_body, found.may_be_empty))

    def test_arguments_and_bodies_of_a_real_one(self) -> None:
        described = document(all_routes())
        messages = described["paths"]["/_matrix/client/v3/rooms/{room_id}/messages"]["get"]
        names = {one["name"] for one in messages["parameters"]}
        self.assertEqual({"room_id", "dir", "from", "to", "limit", "filter"}, names)
        create = described["paths"]["/_matrix/client/v3/createRoom"]["post"]
        reference = create["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        body = described["components"]["schemas"][reference.rpartition("/")[2]]
        self.assertLessEqual({"preset", "invite", "initial_state"}, body["properties"].keys())


class Held(TestCase):
    """No 500, no status and no error code that the description does not declare."""

    def test_to_the_description(self) -> None:
        stranger = Stranger(self)
        problems: dict[str, str] = {}
        for operation in operations():
            self._try(stranger, operation, problems)
        if problems:
            self.fail("\n\n".join(f"{name}: {problem}" for name, problem in problems.items()))

    def _try(self, stranger: Stranger, operation: Any, problems: dict[str, str]) -> None:
        @seed(1)
        @settings(
            max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck)
        )
        @given(cases([operation]))
        def run(drawn: tuple[Any, dict[str, int]]) -> None:
            case, real = drawn
            stranger.judge(case, stranger.send(case, real))

        try:
            run()
        except (Exception, FailureGroup) as error:  # noqa: BLE001 - whatever it is, the others are tried
            problems[operation.label] = f"{error}"[:1500]
