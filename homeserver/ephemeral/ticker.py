"""The counter of ephemeral facts: one number for all of them, because a sync token has room for one."""

from __future__ import annotations


class Ticker:
    """Grows with every change of typing or presence; starts again with the process."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def tick(self) -> int:
        """One more change; its number."""
        self.value += 1
        return self.value
