"""Who uses the browser, and whether what it sends comes from our own pages.

Contract:
1. A form counts only with the token that our pages gave it, or, where nobody is signed in, from a page of ours, as far as
   the browser says where it comes from.
2. Whoever is locked, or whose account ended, is nobody here.
spec: client-server-api#oauth-20-account-management
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final
from urllib.parse import urlsplit

from homeserver.accounts.sessions import proof_is_good
from homeserver.accounts.types import Requester, stand_in
from homeserver.api.account.page import FORM_TOKEN
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request, parse_query
from homeserver.oauth.browsers import Browsers
from homeserver.oauth.types import SignedIn
from homeserver.runtime.clock import Clock
from homeserver.store.users import Account

_RECENT_MS: Final = 600_000
_FORM: Final = b"application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is signed in."""

    signed_in: SignedIn
    is_recent: bool  # signed in just now: nobody else has come to the keyboard since

    @property
    def account(self) -> Account:
        """As it was when they came."""
        return self.signed_in.account

    @property
    def user_id(self) -> str:
        return self.account.user_id

    @property
    def user_nid(self) -> int:
        return self.account.user_nid

    @property
    def token(self) -> str:
        """For the forms of their pages."""
        return self.signed_in.form_token

    @property
    def requester(self) -> Requester:
        """In whose name the domains do something."""
        return stand_in(self.account.user_id, self.account.user_nid)


class Visitors:
    """See the module. ``base``: where the server is."""

    def __init__(self, base: str, browsers: Browsers, clock: Clock) -> None:
        parts = urlsplit(base)
        usual = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
        self._origin = f"{parts.scheme}://{parts.netloc.removesuffix(usual)}".lower().encode()
        self._browsers = browsers
        self._clock = clock

    async def find(self, request: Request) -> Visitor | None:
        """Who is signed in."""
        signed_in = await self._browsers.find(request)
        if signed_in is None or signed_in.account.deactivated or signed_in.account.locked:
            return None
        age_ms = self._clock.now_ms() - signed_in.since_ts_ms
        return Visitor(signed_in, age_ms <= _RECENT_MS)

    async def begin(self, request: Request, account: Account) -> tuple[bytes, bytes]:
        """Sign somebody in who has proven who they are, as a new session: the header for the answer.

        ``account``: as it was then, or as they have made it since, with a new password say.
        """
        with proof_is_good():
            cookie = await self._browsers.begin(account)
        await self._browsers.end(request)
        return cookie

    async def end(self, request: Request) -> tuple[bytes, bytes]:
        """Sign out: the header for the answer."""
        return await self._browsers.end(request)

    def is_ours(self, request: Request, said: Mapping[str, str], visitor: Visitor | None) -> bool:
        """Whether a form was sent by a page of ours."""
        if self._is_foreign(request):
            return False
        if visitor is None:
            return True
        return compare_digest(said.get(FORM_TOKEN, "").encode(), visitor.token.encode())

    def _is_foreign(self, request: Request) -> bool:
        site = request.headers.get(b"sec-fetch-site")
        if site is not None:
            return site not in (b"same-origin", b"none")
        origin = request.headers.get(b"origin")
        return origin is not None and origin.lower() != self._origin


def read_form(request: Request) -> dict[str, str]:
    """The fields of a form; the first of each name."""
    kind = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != _FORM:
        raise invalid_param("This is not what the form of this page sends")
    return {name: values[0] for name, values in parse_query(request.body).items()}
