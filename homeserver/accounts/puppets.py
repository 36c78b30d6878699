"""A requester without a request: what the server does in the name of one of its users, for those in charge.

What is done by it is not told from what the user does; so it is for endpoints of administrators alone, and for what they
have left to do.
"""

from __future__ import annotations

from homeserver.accounts.types import Requester
from homeserver.store.users import Account


def puppet(account: Account) -> Requester:
    """The user as the domains know requesters: of no device, and unhindered by rate limits."""
    return Requester(
        user_id=account.user_id,
        user_nid=account.user_nid,
        device_id=None,
        device_nid=0,
        is_admin=False,
        is_guest=bool(account.guest),
        token_hash=b"",
        rate_limited=False,
    )
