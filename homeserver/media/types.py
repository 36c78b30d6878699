"""What the parts of the content repository, and others, say to each other about files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

RunInThread = Callable[..., Deferred[Any]]


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file that may be served."""

    sha256: str
    size: int
    content_type: str
    file_name: str | None
    created_ts_ms: int
