"""A request with one thing wrong in it, in every way: to be refused, or to be taken, and never a fault of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

# One of each kind of JSON, and what is near the edges: text that PostgreSQL cannot hold, and a number that is none.
WRONG: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**53,
    1.5,
    "",
    "\0",
    "x" * 70_000,
    [],
    [[]],
    [None],
    {},
    {"": {}},
)
MAX_DEPTH = 4


def mutants(body: Any, depth: int = 0) -> Iterator[Any]:
    """Bodies that differ from this one in one place."""
    if depth:
        yield from WRONG
    if depth == MAX_DEPTH:
        return
    if isinstance(body, dict):
        for name, value in body.items():
            yield {other: kept for other, kept in body.items() if other != name}
            for mutant in mutants(value, depth + 1):
                yield {**body, name: mutant}
    elif isinstance(body, list) and body:
        for mutant in mutants(body[0], depth + 1):
            yield [mutant, *body[1:]]


WRONG_TEXTS = (
    "",
    "x",
    "-1",
    "0",
    "99999999999999999999",
    "\0",
    "%",
    "é",
    "true",
    "!x:y",
    "$x",
    "@x:y",
    "x" * 5_000,
)


def uri_mutants(uri: str) -> Iterator[str]:
    """Addresses that differ in one part of the path, or in one value of the query."""
    path, _, query = uri.partition("?")
    segments = path.split("/")
    # Before the fourth segment it is another API.
    for index in range(4, len(segments)):
        for text in WRONG_TEXTS:
            changed = [*segments[:index], quote(text, safe=""), *segments[index + 1 :]]
            yield "/".join(changed) + (f"?{query}" if query else "")
    pairs = parse_qsl(query, keep_blank_values=True)
    for index, (name, _) in enumerate(pairs):
        others = [*pairs[:index], *pairs[index + 1 :]]
        for changed_pairs in (others, *([*others, (name, text)] for text in WRONG_TEXTS)):
            yield f"{path}?{urlencode(changed_pairs)}"
