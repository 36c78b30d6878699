"""Units of work that fail, as they do when the database is away for a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from homeserver.db.errors import DatabaseUnavailable


def failing_once(unit: Callable[..., Any]) -> Callable[..., Any]:
    """The same unit, whose first call finds no database."""
    calls = 0

    def run(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise DatabaseUnavailable("gone for a moment")
        return unit(*args, **more)

    return run
