"""What every endpoint of the admin API has in common: the path, who may ask, and whom it may be asked about.

Bots of moderators and admin pages speak this API, as the documentation of Synapse describes it (docs/admin-api.md lists
what is here). All of it is for administrators of this server; whoever is none learns nothing, not even who exists.
"""

from __future__ import annotations

from typing import Any

from federation.ids import domain_of
from homeserver.accounts.users import Accounts
from homeserver.http.errors import invalid_param, not_found
from homeserver.http.request import Request
from homeserver.http.route import Auth, Handler, Route
from homeserver.store.users import Account

PREFIX = "/_synapse/admin"
# LIMIT(rows of one page of any list, whatever is asked for)
PAGE_MOST = 1_000
PAGE_DEFAULT = 100


def admin_route(method: str, path: str, handler: Handler, section: str) -> Route:
    """An endpoint for administrators; ``section`` is that of docs/admin-api.md."""
    return Route(
        method=method,
        template=PREFIX + path,
        handler=handler,
        auth=Auth.ADMIN,
        limit="read" if method == "GET" else "write",
        spec=f"admin-api#{section}",
    )


async def find_local(accounts: Accounts, user_id: str) -> Account:
    """The account of a user of this server, deactivated or not: 400 for a user of another one, 404 for nobody."""
    if domain_of(user_id) != accounts.server_name:
        raise invalid_param("The user is not of this server")
    account = await accounts.find(user_id)
    if account is None:
        raise not_found("User not found")
    return account


def page_bounds(request: Request) -> tuple[int, int]:
    """How many rows to pass over, and how many to give: ``from`` and ``limit``."""
    skip = request.int_arg("from", 0)
    return skip, request.int_arg("limit", PAGE_DEFAULT, clamp=True, maximum=PAGE_MOST)


def is_backwards(request: Request, *, default: bool) -> bool:
    """The direction of a list: ``dir`` is f or b."""
    direction = request.arg("dir", "b" if default else "f")
    if direction not in ("f", "b"):
        raise invalid_param("Query parameter dir must be f or b")
    return direction == "b"


def optional_flag(request: Request, name: str) -> bool | None:
    """A filter that is true, false, or not there."""
    return None if request.arg(name) is None else request.bool_arg(name)


def next_token(skip: int, given: int, total: int) -> dict[str, Any]:
    """Where the next page begins, if there is one."""
    return {"next_token": skip + given} if given and skip + given < total else {}
