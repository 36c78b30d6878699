"""Fuzz target: every endpoint, with requests drawn from our own description of it. Answers must be such as it declares."""

from __future__ import annotations

from functools import cache
from typing import Any

from twisted.trial.unittest import TestCase

from tests.conformance.stranger import Stranger, cases
from tests.fuzz.harness import main

STRATEGY = cases()


class _Nobody(TestCase):
    """Whom the server's clean-up is left to: the process ends first."""

    def runTest(self) -> None:
        """Nothing: the target is what runs."""


@cache
def _stranger() -> Stranger:
    return Stranger(_Nobody())


def target(value: tuple[Any, dict[str, int]]) -> None:
    """One request, and a look at the answer."""
    case, real = value
    stranger = _stranger()
    stranger.judge(case, stranger.send(case, real))


if __name__ == "__main__":
    main(STRATEGY, target)
