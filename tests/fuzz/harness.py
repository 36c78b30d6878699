"""Run one fuzz target for a while, and the strategies that the targets share."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.errors import Malformed

SPECIAL_TEXT = st.sampled_from(
    [
        "",
        ":",
        "@",
        "!",
        "$",
        "#",
        "@a:b",
        "!r:b",
        "$e:b",
        "@a:b:1",
        "\x00",
        "é" * 200,
        "a" * 300,
        "m.room.member",
        "\ud800",
        "@\udfff:b",
        "b",
    ]
)
TEXT = st.one_of(SPECIAL_TEXT, st.text(max_size=40), st.text(st.characters(), max_size=10))
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.sampled_from([0, -1, 2**53 - 1, 2**53, 2**63, -(2**63)]), st.floats()
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def mutated(draw: Any, template: Any) -> Any:
    """The template with some of its parts replaced, removed or added at any depth."""
    if isinstance(template, dict):
        result = {}
        for key, value in template.items():
            choice = draw(st.integers(0, 11))
            if choice == 0:
                continue
            result[key] = draw(JSON) if choice == 1 else draw(mutated(value))
        if draw(st.integers(0, 5)) == 0:
            result[draw(TEXT)] = draw(JSON)
        return result
    if isinstance(template, list):
        items = [draw(mutated(item)) for item in template]
        return items * draw(st.sampled_from([1, 1, 1, 1, 0, 30]))
    return draw(JSON) if draw(st.integers(0, 11)) == 0 else template


def only_malformed(call: Callable[[], Any]) -> Any:
    """Run a parser: it may refuse, in the specified way, but nothing else may come out of it."""
    try:
        return call()
    except Malformed as error:
        assert 400 <= error.status < 500, error.status
        assert error.errcode.startswith("M_"), error.errcode
        return None


def as_test(
    strategy: st.SearchStrategy[Any], target: Callable[[Any], None], examples: int
) -> Callable[[], None]:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(strategy)
    def run(value: Any) -> None:
        target(value)

    return run


def main(strategy: st.SearchStrategy[Any], target: Callable[[Any], None]) -> None:
    """Entry point of a target: rounds of examples until the time is over. A failure ends it with a traceback."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    end = time.monotonic() + parser.parse_args().seconds
    rounds = 0
    while rounds == 0 or time.monotonic() < end:
        as_test(strategy, target, 500)()
        rounds += 1
    print(f"{rounds * 500} examples, nothing found")
