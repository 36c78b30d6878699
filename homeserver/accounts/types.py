"""What the other parts of the server know of an account: the requester of a request."""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.db.tx import WriteTx
from homeserver.http.errors import MatrixError, unknown_token, user_deactivated, user_locked, user_suspended
from homeserver.store.open_accounts import load_standing


@dataclass(frozen=True, slots=True)
class Requester:
    """Who makes a request, as the access token says."""

    user_id: str
    user_nid: int
    device_id: str | None
    device_nid: int
    """0 where the token belongs to no device."""
    is_admin: bool
    is_guest: bool
    token_hash: bytes
    expires_ts_ms: int | None = None
    rate_limited: bool = True
    appservice_id: str | None = None
    """Where it is an application service that acts as this user."""
    is_suspended: bool = False
    is_locked: bool = False
    rate: tuple[int, int] | None = None
    """What they may do in a second and at once, where administrators said so; else the configuration does."""


class IdentityServerAwayError(MatrixError):
    """An identity server cannot be reached: what else it was to be asked need not be tried at once."""


def stand_in(user_id: str, user_nid: int, *, is_guest: bool = False) -> Requester:
    """A requester without a request: what the server does in the name of one of its users, for those in charge.

    What is done by it is not told from what the user does. Of no device, and unhindered by rate limits.
    """
    return Requester(
        user_id=user_id,
        user_nid=user_nid,
        device_id=None,
        device_nid=0,
        is_admin=False,
        is_guest=is_guest,
        token_hash=b"",
        rate_limited=False,
    )


def ended_account(requester: Requester) -> MatrixError:
    """What a new request of an account that is deactivated by now is told."""
    return unknown_token() if requester.appservice_id is None else user_deactivated()


def check_still(tx: WriteTx, requester: Requester) -> None:
    """Refuse in the end what took so long that the account is deactivated, locked or suspended by now, as a new request is.

    For what a suspended account may not do.
    """
    found = load_standing(tx, requester.user_nid)
    if found is None:
        raise ended_account(requester)
    if found.locked:
        raise user_locked()
    if found.suspended:
        raise user_suspended()
