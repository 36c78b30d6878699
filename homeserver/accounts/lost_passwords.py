"""Whose password is changed by who has lost it: the account's whose address they have proven to read.

Nothing is used up here: the proof is, in the transaction that changes the password. So a letter is good until it has
served, whatever goes wrong meanwhile.
spec: client-server-api#post_matrixclientv3accountpassword
"""

from __future__ import annotations

from homeserver.accounts.users import Accounts
from homeserver.http.errors import forbidden, user_locked
from homeserver.store.threepids import EMAIL
from homeserver.store.users import Account
from homeserver.store.validations import Validation


async def find_by_proof(accounts: Accounts, proof: Validation, of_nid: int | None = None) -> Account:
    """The account of a proven address, with ``of_nid`` of that user alone.

    Raises MatrixError where there is none, and where it is locked.
    """
    account = await accounts.find_by_address(EMAIL, proof.address)
    if account is None:
        raise forbidden("No account has this address any more")
    if of_nid is not None and account.user_nid != of_nid:
        raise forbidden("This is not the address of the account")
    if account.locked:
        raise user_locked()
    return account
