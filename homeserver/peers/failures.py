"""What clients are told when another server does not give what it was asked for."""

from __future__ import annotations

from federation.errors import RemoteError
from homeserver.http.errors import MatrixError, forbidden, limit_exceeded, not_found
from homeserver.http.transport import Unreachable
from homeserver.runtime.shared import Busy
from homeserver.runtime.slots import Full

RETRY_AFTER_MS = 5_000


def to_client(error: RemoteError | Unreachable | Busy | Full, server_name: str, missing: str) -> MatrixError:
    """The answer to a client on whose behalf a server was asked; ``missing`` says what is not there."""
    if isinstance(error, Busy | Full):
        refused = limit_exceeded(RETRY_AFTER_MS)
        refused.error = "Too much is being asked of other servers"
        return refused
    if isinstance(error, Unreachable):
        return MatrixError(502, "M_UNKNOWN", f"{server_name} cannot be reached")
    if error.status == 404:
        return not_found(missing)
    if error.status == 403:
        return forbidden(f"{server_name} does not tell")
    if error.status == 429:
        refused = limit_exceeded(RETRY_AFTER_MS)
        refused.error = f"{server_name} is asked too much"
        return refused
    return MatrixError(502, "M_UNKNOWN", f"{server_name} gave no answer that makes sense")


def garbage(server_name: str, what: str) -> RemoteError:
    """An answer of the wrong shape counts as none."""
    return RemoteError("M_UNKNOWN", 502, f"{server_name} gave {what} that is none")
