"""Which endpoints the tests have called, and how it ended: each must have had a success and a specified error.

The workers of the runner tell what they met (`tests/conformance/witness.py`); after a run of everything, `lacking` says
what nobody tested, and `python -m tests.runner --record` writes it down for docs/spec-coverage.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from http import HTTPStatus

from scripts.spec_coverage import EXERCISED, Endpoint, endpoints, normal_path
from tests.conformance.specification import CLIENT_SERVER, Specification, find_folder

Met = tuple[str, str, int, str]
"""Method, template, status, errcode or nothing."""

# What has no error of its own, and why.
NEVER_FAILS: Mapping[str, str] = {
    "GET /.well-known/matrix/client": "open to everybody, without an argument",
    "GET /_matrix/client/versions": "a token is optional, and everything else is ignored",
    "GET /_matrix/client/v3/login": "open to everybody, without an argument",
    "GET /_matrix/client/v3/initialSync": "the one error that is listed is of avatars, which it does not ask for",
}
# What has no success here, and why.
NEVER_SUCCEEDS: Mapping[str, str] = {
    f"POST /_matrix/client/v3/{what}/msisdn/requestToken": "this server sends no text messages, and says so"
    for what in ("register", "account/password", "account/3pid")
}


def by_route(met: Iterable[Met]) -> dict[tuple[str, str], set[tuple[int, str]]]:
    """Outcomes by method and nameless template."""
    outcomes: defaultdict[tuple[str, str], set[tuple[int, str]]] = defaultdict(set)
    for method, template, status, errcode in met:
        outcomes[method, normal_path(template)].add((status, errcode))
    return dict(outcomes)


def lacking(met: Iterable[Met], served: Iterable[tuple[str, str]]) -> list[str]:
    """The served endpoints of the client-server API without a success, or without an error that is specified."""
    outcomes, routes = by_route(met), set(served)
    folder = find_folder()
    specification = None if folder is None else Specification(folder, (CLIENT_SERVER,))
    found: list[str] = []
    for endpoint in endpoints():
        if endpoint.api != CLIENT_SERVER or endpoint.key not in routes:
            continue
        name = f"{endpoint.method} {endpoint.path}"
        statuses = {status for status, _ in outcomes.get(endpoint.key, ())}
        if not any(status < HTTPStatus.BAD_REQUEST for status in statuses) and name not in NEVER_SUCCEEDS:
            found.append(f"{name}: no success in any test")
        if not statuses & _specified(endpoint, specification) and name not in NEVER_FAILS:
            found.append(f"{name}: no specified error in any test, only {sorted(statuses)}")
    return found


def _specified(endpoint: Endpoint, specification: Specification | None) -> set[int]:
    """The statuses that are errors which the specification lists; any of a client's where it lists none."""
    written: set[int] = set()
    if specification is not None:
        for one in specification.operations(CLIENT_SERVER):
            if (one.method, normal_path(one.template)) == endpoint.key:
                written |= {status for status in one.statuses if status >= HTTPStatus.BAD_REQUEST}
    written.discard(HTTPStatus.TOO_MANY_REQUESTS)
    return written or set(range(HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR))


def record(met: Iterable[Met]) -> None:
    """Write down what the page of the coverage shows."""
    lines = ["method\tpath\toutcomes"]
    for (method, path), outcomes in sorted(by_route(met).items(), key=lambda item: (item[0][1], item[0][0])):
        words = [f"{status} {errcode}".strip() for status, errcode in sorted(outcomes)]
        lines.append(f"{method}\t{path}\t{', '.join(words)}")
    EXERCISED.write_text("\n".join(lines) + "\n")
