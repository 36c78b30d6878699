"""New cross-signing keys for somebody whose app logged in by OAuth 2.0, and so has no password to show.

They allow it on the page of their account. What they allow is one replacement of their keys, by any of their apps that
logged in so, within ten minutes; the apps ask again and again meanwhile, some of them without naming the session in which
they were told where the page is. A restart forgets it: they allow it once more.
# spec: client-server-api#oauth-authentication
"""

from __future__ import annotations

from typing import Final

from homeserver.db.threads import Database
from homeserver.runtime.clock import Clock
from homeserver.store.oauth_sessions import find_oauth_session

LIFETIME_S: Final = 600
STAGES: Final = (
    "m.oauth",
    # COMPAT(apps of before Matrix 1.17): the name from before it was specified.
    "org.matrix.cross_signing_reset",
)


class CrossSigningResets:
    """See the module. ``page``: where they allow it."""

    def __init__(self, page: str, database: Database, clock: Clock) -> None:
        self.page = page
        self._database = database
        self._clock = clock
        self._allowed: dict[int, float] = {}  # until when, by user; who allowed it last comes last

    async def concern(self, device_nid: int) -> bool:
        """Whether a device logged in by OAuth, so that its user is to be asked on the page."""
        return await self._database.read(find_oauth_session, device_nid) is not None

    def allow(self, user_nid: int) -> None:
        """Somebody has said on the page that their keys may be replaced."""
        now_s = self._clock.monotonic()
        self._allowed = {one: until_s for one, until_s in self._allowed.items() if until_s > now_s}
        self._allowed[user_nid] = now_s + LIFETIME_S

    def take(self, user_nid: int) -> bool:
        """Whether they have, and it was not made use of yet: it is now."""
        return self._allowed.pop(user_nid, 0.0) > self._clock.monotonic()
