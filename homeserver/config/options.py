"""How a configuration field is declared: its documentation, limits and reload behaviour as dataclass metadata.

The loader, the sample file and the reference page all read these declarations; nothing is written twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any

METADATA_KEY = "option"


@dataclass(frozen=True, slots=True)
class Option:
    """What is known about one key beside its type and default."""

    doc: str
    key: str = ""  # the name in the file, where it cannot be the field's (`from`)
    minimum: float | None = None
    maximum: float | None = None
    reloadable: bool = False  # takes effect on SIGHUP; all others need a restart
    secret: bool = False  # never shown
    check: Callable[[Any], object] | None = None  # raises ValueError with one clear line
    default_text: str = ""  # how the reference describes a default that is derived from other keys
    in_sample: bool = False


def option(default: Any = MISSING, *, doc: str, **details: Any) -> Any:
    """Declare a field. Without a default the key is required."""
    described = Option(doc=doc, **details)
    if default is MISSING:
        return field(metadata={METADATA_KEY: described}, repr=not described.secret)
    return field(default=default, metadata={METADATA_KEY: described}, repr=not described.secret)


def free(*, check: Callable[[Mapping[str, Any]], object] | None = None, doc: str) -> Any:
    """Declare a mapping of whatever JSON can say; none of it means anything to the server."""
    return field(default_factory=dict, metadata={METADATA_KEY: Option(doc=doc, check=check)})


def section(kind: Callable[[], Any], *, doc: str, in_sample: bool = False) -> Any:
    """Declare a nested mapping whose keys all have defaults."""
    return field(default_factory=kind, metadata={METADATA_KEY: Option(doc=doc, in_sample=in_sample)})


def option_of(declared: dataclasses.Field[Any]) -> Option:
    found: Option = declared.metadata[METADATA_KEY]
    return found


def key_of(declared: dataclasses.Field[Any]) -> str:
    """The name of a field in the file."""
    return option_of(declared).key or declared.name


def default_of(declared: dataclasses.Field[Any]) -> Any:
    """The default value, or `MISSING` for a required key."""
    if declared.default_factory is not MISSING:
        return declared.default_factory()
    return declared.default
