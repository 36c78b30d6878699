"""MatrixError: the one exception that a handler raises to refuse, and short names for the usual refusals.

The router renders it, in one place, as the standard error response. Anything else that a handler raises is our bug
and becomes a 500 with an id.
spec: client-server-api#standard-error-response
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from homeserver.http.response import Response

HeaderList = Sequence[tuple[bytes, bytes]]

# At these codes clients give up their session, or stop until the account is mended, whatever the status says.
_OF_THE_SESSION: Final = frozenset(
    (
        "M_UNKNOWN_TOKEN",
        "M_MISSING_TOKEN",
        "M_USER_LOCKED",
        "M_USER_SUSPENDED",
        "M_USER_DEACTIVATED",
        "M_CONSENT_NOT_GIVEN",
    )
)


class MatrixError(Exception):
    """A refusal with a status, an error code and a sentence for people; `extra` goes into the JSON as it is."""

    def __init__(
        self, status: int, errcode: str, error: str, *, headers: HeaderList = (), **extra: Any
    ) -> None:
        super().__init__(status, errcode, error)
        self.status = status
        self.errcode = errcode
        self.error = error
        self.headers = headers
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.status} {self.errcode}: {self.error}"

    @property
    def passes(self) -> bool:
        """Whether it says nothing of what was asked for: in a while it may be otherwise."""
        return self.status == 429 or self.status >= 500

    def to_json(self) -> dict[str, Any]:
        """The standard error response; errcode and error win over anything of the same name in `extra`."""
        return {**self.extra, "errcode": self.errcode, "error": self.error}

    def to_response(self) -> Response:
        return Response(self.status, msgspec.json.encode(self.to_json()), list(self.headers))


class UserLimitReachedError(Exception):
    """The account has as much of something as it may have.

    ``info_uri``: where people read about that; else whoever answers knows.
    """

    # spec: client-server-api#common-error-codes (M_USER_LIMIT_EXCEEDED)
    def __init__(self, error: str, info_uri: str | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.info_uri = info_uri

    def to_refusal(self, help_uri: str) -> MatrixError:
        """As the client is told it; ``help_uri`` is for one that names no page."""
        info_uri = self.info_uri if self.info_uri is not None else help_uri
        return MatrixError(403, "M_USER_LIMIT_EXCEEDED", self.error, info_uri=info_uri)


class ClientGone(Exception):  # noqa: N818 (what happened, and nobody's error)
    """The client closed the connection before the request or its answer was complete: nobody waits any more."""


def not_found(error: str = "Not found") -> MatrixError:
    return MatrixError(404, "M_NOT_FOUND", error)


def passed_on(errcode: str) -> str:
    """The code under which a client is told what another server refuses: that one knows nothing of sessions here."""
    return "M_FORBIDDEN" if errcode in _OF_THE_SESSION else errcode


def forbidden(error: str = "Forbidden") -> MatrixError:
    return MatrixError(403, "M_FORBIDDEN", error)


def bad_json(error: str) -> MatrixError:
    """Valid JSON of the wrong shape: a missing key, a wrong type."""
    return MatrixError(400, "M_BAD_JSON", error)


def not_json(error: str = "The request body is not valid JSON") -> MatrixError:
    return MatrixError(400, "M_NOT_JSON", error)


def invalid_param(error: str) -> MatrixError:
    return MatrixError(400, "M_INVALID_PARAM", error)


def missing_param(error: str) -> MatrixError:
    return MatrixError(400, "M_MISSING_PARAM", error)


def unrecognized() -> MatrixError:
    """An endpoint that this server does not have."""
    return MatrixError(404, "M_UNRECOGNIZED", "Unrecognized request")


def wrong_method(allowed: Sequence[str]) -> MatrixError:
    """The endpoint exists, with other methods."""
    allow = ", ".join(allowed).encode("ascii")
    return MatrixError(405, "M_UNRECOGNIZED", "Unrecognized request method", headers=((b"Allow", allow),))


def too_large(error: str = "The request is too large") -> MatrixError:
    return MatrixError(413, "M_TOO_LARGE", error)


def limit_exceeded(retry_after_ms: int, error: str = "Too many requests") -> MatrixError:
    """Both forms of the waiting time: the header, in whole seconds, and the older field of the body."""
    # spec: client-server-api#rate-limiting
    seconds = max(1, -(-retry_after_ms // 1000))
    return MatrixError(
        429,
        "M_LIMIT_EXCEEDED",
        error,
        headers=((b"Retry-After", b"%d" % seconds),),
        retry_after_ms=retry_after_ms,
    )


def unknown_token(soft_logout: bool = False) -> MatrixError:
    """The access token is not (or no longer) known; with soft_logout the device still exists."""
    # spec: client-server-api#soft-logout
    error = MatrixError(401, "M_UNKNOWN_TOKEN", "Unrecognised access token")
    if soft_logout:
        error.extra["soft_logout"] = True
    return error


def missing_token() -> MatrixError:
    return MatrixError(401, "M_MISSING_TOKEN", "Missing access token")


def user_locked() -> MatrixError:
    """The account is locked: its tokens are kept, and good for nothing meanwhile."""
    # spec: client-server-api#account-locking
    return MatrixError(401, "M_USER_LOCKED", "This account has been locked", soft_logout=True)


def user_deactivated() -> MatrixError:
    """The account is no more."""
    # spec: client-server-api#other-error-codes
    return MatrixError(403, "M_USER_DEACTIVATED", "This account is deactivated")


def user_suspended() -> MatrixError:
    """The account is suspended: this is nothing that it may do meanwhile."""
    # spec: client-server-api#account-suspension
    return MatrixError(403, "M_USER_SUSPENDED", "You cannot perform this action while suspended")
