"""Progress of long commands on standard error: a bar on a terminal, a line per step elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import TaskID


class ProgressBar:
    """A `homeserver.cli.operations.Progress` for the time of a `with` block."""

    __slots__ = ("_bars", "_console", "_label", "_rich")

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._rich = (
            RichProgress(console=self._console, transient=True) if self._console.is_terminal else None
        )
        self._bars: dict[str, TaskID] = {}
        self._label = ""

    def __enter__(self) -> Self:
        if self._rich is not None:
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()

    def __call__(self, label: str, done: int, total: int | None = None) -> None:
        if self._rich is None:
            if label != self._label:
                click.echo(f"{label} …", err=True)
            self._label = label
            return
        if label not in self._bars:
            self._bars[label] = self._rich.add_task(label, total=total)
        self._rich.update(self._bars[label], completed=done, total=total)
