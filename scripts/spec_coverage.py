"""docs/spec-coverage.md: which endpoints and sections of the Matrix specification the code implements.

Endpoints come from docs/reference/endpoints.tsv (drawn from the specification's OpenAPI files, v1.19). An endpoint is
*implemented* when a route has its method and path, *partial* when a comment near the code says what is missing:

    # spec-partial: PUT /_matrix/client/v3/some/{thing}: no such and such yet

or when a comment says that it is for others to serve, and for us to ask:

    # spec-asked: POST /_matrix/some/thing: only such servers serve it

It is *declined* when a comment says why we answer it as an unknown endpoint, as the specification has servers do that
are without what it is for:

    # spec-declined: GET /_matrix/some/choice: nothing to choose from here

and *missing* otherwise. Beside each stands how calls of it ended in the tests (docs/reference/exercised.tsv, written by
`python -m tests.runner --record`). Sections come from the anchors in `spec:` comments and docstrings and in the routes.

The route table is that of a real server: the whole app is built, extensions included, over an empty database in memory
that nobody ever asks anything.
"""

from __future__ import annotations

import ast
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock as TaskClock
from twisted.python.failure import Failure

from federation.signing import SigningKey
from homeserver.app import App, build_app
from homeserver.composition.core import Surroundings
from homeserver.config.schema import Config
from homeserver.db.engine import open_engine
from homeserver.db.migrate import upgrade_engine
from homeserver.db.threads import InlineDatabase
from homeserver.extensions import load_extensions
from homeserver.http.route import Route
from homeserver.http.transport import Nowhere
from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.entropy import SeededEntropy
from homeserver.runtime.log import MemoryLog
from scripts.totals import REPOSITORY

ENDPOINTS = REPOSITORY / "docs" / "reference" / "endpoints.tsv"
EXERCISED = REPOSITORY / "docs" / "reference" / "exercised.tsv"
SOURCES = ("federation", "homeserver", "synapse-compat/synapse_compat")

_PARAMETER = re.compile(r"\{[^{}]*\}")
_SPEC = re.compile(r"\bspec:\s*(.+)")
_ANCHOR = re.compile(r"[a-z0-9-]+(?:/[a-z0-9-]+)*#[a-z0-9_.-]*[a-z0-9_]")
_PARTIAL = re.compile(r"#\s*spec-partial:\s*([A-Z]+)\s+(/\S+?):\s+(.+)")
_ASKED = re.compile(r"#\s*spec-asked:\s*([A-Z]+)\s+(/\S+?):\s+(.+)")
_DECLINED = re.compile(r"#\s*spec-declined:\s*([A-Z]+)\s+(/\S+?):\s+(.+)")
STATUSES = ("implemented", "partial", "declined", "missing")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One line of the specification's list."""

    api: str
    method: str
    path: str
    operation: str
    deprecated: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.method, normal_path(self.path)


@dataclass(frozen=True, slots=True)
class RouteLine:
    """What the coverage needs to know of a route."""

    method: str
    template: str
    spec: str

    @property
    def key(self) -> tuple[str, str]:
        return self.method, normal_path(self.template)


def normal_path(path: str) -> str:
    """The path with nameless parameters, so that ours and the specification's compare.

    Where two operations share method and path, the files tell the second one from the first by a space behind it.
    """
    return _PARAMETER.sub("{}", path.strip())


def endpoints() -> list[Endpoint]:
    rows = [line.split("\t") for line in ENDPOINTS.read_text().splitlines()[1:]]
    return [Endpoint(api, method, path, operation, bool(old)) for api, method, path, operation, old in rows]


def routes() -> list[RouteLine]:
    """What the coverage needs of every route of the server."""
    return [RouteLine(route.method, route.template, route.spec) for route in all_routes()]


@cache
def all_routes() -> Sequence[Route]:
    """Every route of the server."""
    with tempfile.TemporaryDirectory() as folder:
        return _build_routes(Path(folder))


def _build_routes(folder: Path) -> Sequence[Route]:
    engine = open_engine("sqlite::memory:")
    upgrade_engine(engine)
    database = InlineDatabase(engine)
    config = Config(server_name="coverage.example", public_url="https://coverage.example", data_dir=folder)
    around = Surroundings(
        database,
        TwistedClock(TaskClock()),
        SeededEntropy(0),
        MemoryLog(),
        SigningKey.from_seed(config.parsed_server_name, "a", b"\x00" * 32),
        maybeDeferred,
        Nowhere(),
    )
    built: list[App | Failure] = []
    extras = [one.routes for one in load_extensions()]
    Deferred.fromCoroutine(build_app(config, around, extras)).addBoth(built.append)
    database.stop()
    if isinstance(built[0], Failure):
        built[0].raiseException()
    return built[0].router.routes


def routes_in(text: str) -> Iterator[RouteLine]:
    """The routes written out in a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Route":
            words = {
                word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)
            }
            if isinstance(words.get("method"), str) and isinstance(words.get("template"), str):
                yield RouteLine(str(words["method"]), str(words["template"]), str(words.get("spec", "")))


def _files() -> Iterator[tuple[str, str]]:
    for folder in SOURCES:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            yield str(path.relative_to(REPOSITORY)), path.read_text("utf-8")


def anchors_in(text: str) -> set[str]:
    """The sections that a module's comments, docstrings and routes name."""
    found = {anchor for line in _SPEC.findall(text) for anchor in _ANCHOR.findall(line)}
    return found | {anchor for route in routes_in(text) for anchor in _ANCHOR.findall(route.spec)}


def partials_in(text: str) -> dict[tuple[str, str], str]:
    """What is said to be missing, by endpoint."""
    return _reasons(_PARTIAL, text)


def asked_in(text: str) -> dict[tuple[str, str], str]:
    """What we ask of others and do not serve, and why, by endpoint."""
    return _reasons(_ASKED, text)


def declined_in(text: str) -> dict[tuple[str, str], str]:
    """What we neither serve nor need to, and why, by endpoint."""
    return _reasons(_DECLINED, text)


def declined() -> dict[tuple[str, str], str]:
    """The same of all modules."""
    return {key: reason for _, text in _files() for key, reason in declined_in(text).items()}


def _reasons(pattern: re.Pattern[str], text: str) -> dict[tuple[str, str], str]:
    return {(method, normal_path(path)): reason.strip() for method, path, reason in pattern.findall(text)}


def status_of(
    endpoint: Endpoint,
    served: set[tuple[str, str]],
    partial: dict[tuple[str, str], str],
    refused: dict[tuple[str, str], str],
) -> str:
    if endpoint.key not in served:
        return "declined" if endpoint.key in refused else "missing"
    return "partial" if endpoint.key in partial else "implemented"


def exercised() -> dict[tuple[str, str], str]:
    """How calls ended in the tests, by method and nameless path."""
    rows = [line.split("\t") for line in EXERCISED.read_text().splitlines()[1:]]
    return {(method, path): outcomes for method, path, outcomes in rows}


def _endpoint_lines(
    every: Iterable[Endpoint], partial: dict[tuple[str, str], str], asked: dict[tuple[str, str], str]
) -> Iterator[str]:
    served = {route.key for route in routes()} | asked.keys()
    every = list(every)
    refused = declined()
    statuses = {endpoint: status_of(endpoint, served, partial, refused) for endpoint in every}
    outcomes = exercised()
    yield "| API | implemented | partial | declined | missing | of which deprecated | all |"
    yield "|---|---|---|---|---|---|---|"
    for api in sorted({endpoint.api for endpoint in every}):
        ours = [endpoint for endpoint in every if endpoint.api == api]
        counts = [sum(statuses[endpoint] == word for endpoint in ours) for word in STATUSES]
        old = sum(endpoint.deprecated and statuses[endpoint] == "missing" for endpoint in ours)
        yield f"| {api} | {' | '.join(map(str, counts))} | {old} | {len(ours)} |"
    for word in ("partial", "declined", "missing", "implemented"):
        chosen = [endpoint for endpoint in every if statuses[endpoint] == word]
        yield from ("", f"## {word.capitalize()} ({len(chosen)})", "")
        if not chosen:
            yield "None."
        for endpoint in sorted(chosen, key=lambda item: (item.api, item.path, item.method)):
            old_word = " (deprecated)" if endpoint.deprecated else ""
            reason = f": {partial[endpoint.key]}" if word == "partial" else ""
            if word == "declined":
                reason = f": {refused[endpoint.key]}"
            if endpoint.key in asked:
                reason = f": asked, not served: {asked[endpoint.key]}"
            is_served = word in ("implemented", "partial")
            seen = f" — {outcomes[endpoint.key]}" if endpoint.key in outcomes and is_served else ""
            name = f"`{endpoint.method} {endpoint.path.strip()}`"
            twin = f" ({endpoint.operation})" if endpoint.path.endswith(" ") else ""
            yield f"- {name}{twin}{old_word}{reason}{seen}"


def page() -> str:
    """The whole page."""
    partial: dict[tuple[str, str], str] = {}
    asked: dict[tuple[str, str], str] = {}
    files_of: defaultdict[str, set[str]] = defaultdict(set)
    for path, text in _files():
        partial.update(partials_in(text))
        asked.update(asked_in(text))
        for anchor in anchors_in(text):
            files_of[anchor].add(path)
    lines = [
        "# Coverage of the Matrix specification",
        "",
        "<!-- Generated from the route table and the `spec:` comments by `make docs`. Do not edit. -->",
        "",
        "Endpoints of specification v1.19, each with the answers that the tests have had of it, and below them the sections",
        "that the code names. A run of all tests fails where an endpoint had no success, or no error that is specified.",
        "",
        *_endpoint_lines(endpoints(), partial, asked),
        "",
        f"## Sections named in the code ({len(files_of)})",
        "",
        "| section | files |",
        "|---|---|",
    ]
    for anchor, files in sorted(files_of.items()):
        names = ", ".join(f"[{name}](../{name})" for name in sorted(files))
        lines.append(f"| {anchor} | {names} |")
    return "\n".join(lines) + "\n"
