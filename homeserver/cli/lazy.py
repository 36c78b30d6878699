"""Late loading, for a quick start: a command's module is imported when the command is called.

`chaos --help` and `chaos serve` must not pay for the libraries of other commands (rich, Alembic, the simulator).
Function-level imports are banned, so this is the one place that imports by name.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, cast

import click

from homeserver.cli.operations import Application


class LazyGroup(click.Group):
    """A group whose commands are named with the module they are in: `{"serve": "homeserver.cli.serve:serve"}`."""

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module_name, attribute = self._lazy[cmd_name][0].split(":")
        return cast(click.Command, getattr(importlib.import_module(module_name), attribute))

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, from our table: no module is loaded for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """With a suggestion for a mistyped name: click itself suggests loaded commands only."""
        name = args[0]
        if name not in self._lazy and not name.startswith("-"):
            near = difflib.get_close_matches(name[:80], self._lazy, n=1)
            ctx.fail(f"No such command {name[:80]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


def load_application() -> Application:
    """The module that implements the operations, and with the composition root imports everything."""
    return cast(Application, importlib.import_module("homeserver.operations"))
