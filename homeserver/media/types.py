"""What the parts of the content repository, and others, say to each other about files."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred

OCTET_STREAM = "application/octet-stream"
MAX_NAME_BYTES = 1024
# Type, subtype and parameters, all printable ASCII: whatever else was sent is no content type.
_CONTENT_TYPE = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(?:[ \t]*;[\x20-\x7e]{0,256})?"
)
# spec: client-server-api#thumbnails (the sizes to have, and the next ones up, for dense screens)
SCALE_SIZES: Final = ((96, 96), (320, 240), (640, 480), (800, 600), (1600, 1200))
CROP_SIDES: Final = (32, 96, 320, 640, 1024)

RunInThread = Callable[..., Deferred[Any]]
Holding = Callable[[], AbstractAsyncContextManager[Path]]
"""A file on this machine, good for as long as the block runs. Raises OSError."""


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file that may be served."""

    sha256: str
    size: int
    content_type: str
    file_name: str | None
    created_ts_ms: int


def thumbnail_name(method: str, width: int, height: int, *, animated: bool) -> str:
    """The name of such a thumbnail among those of one file, without the ending."""
    return f"{method}-{width}x{height}" + ("-animated" if animated else "")


def clean_content_type(content_type: str) -> str:
    """The content type as it was given, unless it is none."""
    # spec: client-server-api#post_matrixmediav3upload
    return content_type if _CONTENT_TYPE.fullmatch(content_type) else OCTET_STREAM
