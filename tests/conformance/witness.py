"""Looks at every answer that a test gets, whatever the test is about: does the specification allow it?

The runner gives each of its workers one. It sees what goes through `HttpHarness`, judges it by the OpenAPI files where
they are, and notes which outcomes each route has had.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from homeserver.http.request import Request
from tests.conformance.specification import CLIENT_SERVER, SERVER_SERVER, Specification, find_folder
from tests.support.http import Answer

APIS = (CLIENT_SERVER, SERVER_SERVER)
# Problems of one test that are worth reading.
MOST = 20
# Of HTTP itself, whatever an endpoint is: parts, and what the client has already.
HTTP_STATUSES = frozenset({206, 304})
# What schemas demand and the text does not, by the end of a template.
DEVIATIONS: Mapping[str, str] = {
    # The event comes back with "all other fields untouched", and whoever made it may have left `origin` out: no room
    # version has it among its fields, and version 11 no longer keeps it in redactions.
    "/invite/{room_id:room_id}/{event_id:event_id}": '"origin" is a required property',
    # MSC3026 adds a state, which clients only set where `/versions` has its flag.
    "/presence/{user_id:user_id}/status": '"org.matrix.msc3026.busy" is not one of "online", "offline" or "unavailable"',
}

# What is served for others to use, of Matrix or of ourselves.
_OURS = ("/_", "/.well-known/", "/oauth2/", "/account")
_OTHER_ANSWERS = (b"event_fields", b"event_format", b"format=event", b"org.matrix.msc4140.delay=")


class Witness:
    """Sees answers; `take_problems` after each test."""

    def __init__(self, specification: Specification | None) -> None:
        self._specification = specification
        self.judges = specification is not None
        self._problems: dict[str, None] = {}
        self.outcomes: defaultdict[tuple[str, str], set[tuple[int, str]]] = defaultdict(set)

    def __call__(self, request: Request, answer: Answer) -> None:
        """One of our servers says this."""
        route = request.route
        if not route.spec or not route.template.startswith(_OURS):
            return  # the affair of nobody's specification, or of a test of routers
        self.outcomes[route.method, route.template].add((answer.status, answer.errcode or ""))
        if answer.status == 500:
            self._note(f"{request.method} {route.template}", answer, [str(answer.json)])
        if self._specification is None:
            return
        operation = self._specification.find(request.method, request.raw_path.decode("ascii"))
        if operation is not None and not _is_beyond(request, answer):
            told = operation.problems_of_answer(answer.status, answer.headers, answer.body)
            found = [problem for problem in told if not _is_deviation(route.template, problem)]
            self._note(operation.name, answer, found)

    def _note(self, name: str, answer: Answer, found: Sequence[str]) -> None:
        for problem in found:
            self._problems[f"{name}: {answer.status} {answer.errcode or ''}: {problem}"] = None

    def take_problems(self) -> list[str]:
        """What was wrong since the last time, each once."""
        taken = list(self._problems)[:MOST]
        self._problems.clear()
        return taken


def _is_deviation(template: str, problem: str) -> bool:
    """Whether a schema is stricter than the text of the specification."""
    return any(template.endswith(end) and problem.endswith(words) for end, words in DEVIATIONS.items())


def _is_beyond(request: Request, answer: Answer) -> bool:
    """Whether the schema of the endpoint cannot know this answer."""
    if answer.status in HTTP_STATUSES:
        return True
    if answer.status == 401 and isinstance(answer.json, dict):
        # Any 401 may be a question of user-interactive authentication, or a token that is missing or unknown.
        return {"session", "flows"} <= answer.json.keys() or {"errcode", "error"} <= answer.json.keys()
    if request.route.template.endswith("/voip/turnServer") and answer.json == {}:
        return True  # without relays; browsers refuse what the schema would have (homeserver/calls/turn.py)
    # A client that asks for some fields of events, or for another format of them, does not get whole ones; and one that
    # sends an event later does not get its id.
    return any(word in request.raw_query for word in _OTHER_ANSWERS)


def call_witness() -> Witness:
    """One that judges where it can."""
    folder = find_folder()
    return Witness(None if folder is None else Specification(folder, APIS))
