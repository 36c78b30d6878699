"""The two exceptions of the federation core. "Not authorised" is a verdict (see verdict.py), never an exception.

# spec: client-server-api#standard-error-response
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class Malformed(ValueError):  # noqa: N818 (a verdict on the input, not a failure of ours)
    """Input from outside breaks a format or size rule. Carries what the wire answer must say."""

    def __init__(self, message: str, errcode: str = "M_BAD_JSON", status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.errcode = errcode
        self.status = status


class NotCanonical(Malformed):
    """What canonical JSON cannot hold, as room versions from 6 on ask for it."""


class RemoteError(Exception):
    """Another server answered with a Matrix error, or with something that is not an answer at all.

    `content` is the object that it sent, unchecked: some errors carry more than a code (the version of a room).
    """

    def __init__(
        self,
        errcode: str,
        status: int,
        message: str,
        content: Mapping[str, Any] = MappingProxyType({}),
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(f"{status} {errcode}: {message}")
        self.errcode = errcode
        self.status = status
        self.message = message
        self.content = content
        self.retry_after_ms = retry_after_ms
