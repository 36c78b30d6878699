"""What one step of a test costs in statements.

What is counted is what the engine's hook sees: every statement of every unit of work. COMMIT is counted apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.support.app import TestApp

_STATEMENT = re.compile(r"(INSERT INTO|UPDATE|DELETE FROM|SELECT|WITH)\b(?:\s+(\w+))?")
_WRITES = ("INSERT INTO", "UPDATE", "DELETE FROM")


class Counted:
    """The statements of one step."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.units: list[tuple[str, int]] = []  # the functions of the read units, with their statements

    @property
    def statements(self) -> list[str]:
        """Without what begins and ends transactions."""
        return [text for text in self.texts if text != "COMMIT"]

    @property
    def written(self) -> list[str]:
        """The tables that were written, in order, each time."""
        found = [_STATEMENT.match(text) for text in self.statements]
        return [one[2] for one in found if one is not None and one[1] in _WRITES]

    @property
    def transactions(self) -> int:
        """How many transactions that wrote were committed."""
        return sum(
            text == "COMMIT" and self.texts[place - 1].startswith(_WRITES)
            for place, text in enumerate(self.texts)
        )

    def __str__(self) -> str:
        return "\n".join(text[:110] for text in self.texts)


def count(app: TestApp, step: Callable[[], object]) -> Counted:
    """What a step costs."""
    counted = Counted()
    read = app.database.read

    def note(unit: Any, *args: Any, **named: Any) -> Any:
        before = len(counted.statements)
        found = read(unit, *args, **named)
        counted.units.append((unit.__name__, len(counted.statements) - before))
        return found

    app.engine.hook = lambda text: counted.texts.append(" ".join(text.split()))
    app.database.read = note  # type: ignore[method-assign, assignment]
    try:
        step()
    finally:
        app.engine.hook = None
        app.database.read = read  # type: ignore[method-assign]
    return counted
