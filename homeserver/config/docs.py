"""Generates the sample `chaos.yaml` and `docs/configuration.md` from the declarations in `schema.py`."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from homeserver.config.load import range_text
from homeserver.config.options import default_of, key_of, option_of
from homeserver.config.schema import Config, IpNetwork

_HEAD = """\
# Configuration

<!-- Generated from homeserver/config/schema.py by `make docs`. Do not edit. -->

One YAML file, `chaos.yaml` unless `--config` says otherwise. Only `server_name` is required. Unknown keys are
errors. Durations are in seconds (`*_s`) and sizes in bytes (`*_bytes`). Paths are relative to the folder of the
file. Each top-level key that holds a single value can also be given as an environment variable, `CHAOS_` and the
key in capitals (`CHAOS_DATABASE`), which wins over the file; an empty variable means `null`.

`chaos init` writes a file to start from, `chaos check-config` checks one and reports every problem at once.
Keys marked *reload* take effect on SIGHUP; all others need a restart.

## Sample

```yaml
"""

_PLAIN_NAME = re.compile(r"[a-z][a-z0-9-]*(\.[a-z0-9-]+)+(:[0-9]+)?")


def sample_yaml(server_name: str = "chat.example.org") -> str:
    """The keys that most servers touch, each with its explanation; what is commented out is the default."""
    blocks = [
        _sample_block(declared, server_name) for declared in _fields(Config) if option_of(declared).in_sample
    ]
    return "\n".join(blocks)


def reference_markdown() -> str:
    """The whole of docs/configuration.md."""
    parts = [_HEAD, sample_yaml(), "```\n\n## Reference\n\n### Top level\n\n", _table(Config)]
    for title, kind in _sections():
        parts.append(f"\n### `{title}`\n\n")
        parts.append(_table(kind))
    return "".join(parts)


def _sample_block(declared: dataclasses.Field[Any], server_name: str) -> str:
    option, key, default = option_of(declared), key_of(declared), default_of(declared)
    lines = [f"# {option.doc}"]
    if key == "server_name":
        return "\n".join([*lines, f"server_name: {_yaml_name(server_name)}", ""])
    if key == "public_url":
        return "\n".join([*lines, f"public_url: https://{server_name}", ""])
    if key == "listeners":
        listener = default[0]
        serve = ", ".join(listener.serve)
        lines += ["listeners:", f"  - {{bind: {listener.bind}, port: {listener.port}, serve: [{serve}]}}"]
        return "\n".join([*lines, ""])
    if dataclasses.is_dataclass(default):
        lines.append(f"{key}:")
        marked = [inner for inner in _fields(type(default)) if option_of(inner).in_sample]
        for inner in marked or _fields(type(default))[:1]:
            lines.append(f"  {key_of(inner)}: {_yaml(default_of(inner))}  # {option_of(inner).doc}")
        return "\n".join([*lines, ""])
    return "\n".join([*lines, f"{key}: {_yaml(default)}", ""])


def _sections() -> Iterator[tuple[str, type]]:
    """Nested records below the top level, each once, in the order of the file."""
    for declared in _fields(Config):
        kind = _record_of(get_type_hints(Config)[declared.name])
        if kind is None:
            continue
        title = key_of(declared) + (
            "[]" if get_origin(get_type_hints(Config)[declared.name]) is tuple else ""
        )
        yield title, kind
        seen: set[type] = set()
        for inner in _fields(kind):
            nested = _record_of(get_type_hints(kind)[inner.name])
            if nested is not None and nested not in seen:
                seen.add(nested)
                shared = sum(_record_of(hint) is nested for hint in get_type_hints(kind).values()) > 1
                name = "<class>" if shared else key_of(inner)
                many = "[]" if get_origin(get_type_hints(kind)[inner.name]) is tuple else ""
                yield f"{title}.{name}{many}", nested


def _table(kind: type) -> str:
    rows = ["| key | type | default | range | reload | meaning |", "|---|---|---|---|---|---|"]
    hints = get_type_hints(kind)
    for declared in _fields(kind):
        option = option_of(declared)
        rows.append(
            f"| `{key_of(declared)}` | {_type_text(hints[declared.name])} | {_default_text(declared)} "
            f"| {range_text(option)} | {'yes' if option.reloadable else ''} | {option.doc} |"
        )
    return "\n".join(rows) + "\n"


def _default_text(declared: dataclasses.Field[Any]) -> str:
    option, default = option_of(declared), default_of(declared)
    if option.default_text:
        return option.default_text
    if default is MISSING:
        return "*required*"
    if dataclasses.is_dataclass(default) and declared.default_factory is not MISSING:
        return "see below"
    return f"`{_yaml(default)}`"


def _type_text(hint: Any) -> str:
    if hint == IpNetwork:
        return "CIDR range"
    origin = get_origin(hint)
    if origin is types.UnionType:
        inner = next(kind for kind in get_args(hint) if kind is not type(None))
        return f"{_type_text(inner)} or null"
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if origin is tuple:
        return f"list of {_type_text(get_args(hint)[0])}"
    if dataclasses.is_dataclass(hint) or origin is Mapping:
        return "mapping"
    return {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}[hint]


def _yaml(value: Any) -> str:
    """A value in YAML's flow style."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if dataclasses.is_dataclass(value):
        pairs = [f"{key_of(inner)}: {_yaml(getattr(value, inner.name))}" for inner in _fields(type(value))]
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, Path):
        return f"./{value}"
    if isinstance(value, str) and (not value or value[0].isdigit()) and not value.count(".") > 1:
        return f'"{value}"'
    return str(value)


def _yaml_name(server_name: str) -> str:
    """In quotes where YAML could take it for something else: `[::1]:8448`, `10:20`, `no`."""
    return server_name if _PLAIN_NAME.fullmatch(server_name) else f'"{server_name}"'


def _record_of(hint: Any) -> type | None:
    """The dataclass in `X`, `X | None` or `tuple[X, ...]`."""
    for candidate in (hint, *get_args(hint)):
        if dataclasses.is_dataclass(candidate) and isinstance(candidate, type):
            return candidate
    return None


def _fields(kind: type) -> list[dataclasses.Field[Any]]:
    return list(dataclasses.fields(kind))
