"""What a reload (SIGHUP) may change: the keys marked so in the schema, and no others."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from homeserver.config.options import key_of, option_of
from homeserver.config.schema import Config

_Record = TypeVar("_Record")


def merge_reloadable(running: Config, read: Config) -> tuple[Config, list[str], list[str]]:
    """The configuration to go on with, the keys that changed in it, and those that wait for a restart."""
    changed: list[str] = []
    waiting: list[str] = []
    return _merge(running, read, "", changed, waiting), changed, waiting


def _merge(old: _Record, new: _Record, prefix: str, changed: list[str], waiting: list[str]) -> _Record:
    values: dict[str, Any] = {}
    for declared in dataclasses.fields(old):  # type: ignore[arg-type]
        path = prefix + key_of(declared)
        before, after = getattr(old, declared.name), getattr(new, declared.name)
        if before == after:
            continue
        if dataclasses.is_dataclass(before) and type(before) is type(after):
            values[declared.name] = _merge(before, after, f"{path}.", changed, waiting)
        elif option_of(declared).reloadable:
            values[declared.name] = after
            changed.append(path)
        else:
            waiting.append(path)
    return dataclasses.replace(old, **values)  # type: ignore[type-var]
