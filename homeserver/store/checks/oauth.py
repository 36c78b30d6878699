"""Invariants of OAuth 2.0: logins, browsers and what was allowed end with devices and accounts."""

from __future__ import annotations

from sqlalchemy import select

from homeserver.db.schema.accounts import accounts, devices
from homeserver.db.schema.oauth import (
    browser_sessions,
    oauth_clients,
    oauth_codes,
    oauth_device_codes,
    oauth_sessions,
)
from homeserver.store.checks.rules import Rule, none_of, points_nowhere, rule
from homeserver.store.oauth import Verdict

OAUTH: tuple[Rule, ...] = (
    points_nowhere(oauth_sessions.c.device_nid, devices.c.nid),
    points_nowhere(oauth_sessions.c.client_id, oauth_clients.c.client_id),
    points_nowhere(browser_sessions.c.user_nid, accounts.c.user_nid),
    points_nowhere(oauth_codes.c.user_nid, accounts.c.user_nid),
    rule(
        "a login by OAuth is not of the user whose device it is",
        select(oauth_sessions.c.device_nid).where(
            oauth_sessions.c.device_nid == devices.c.nid, oauth_sessions.c.user_nid != devices.c.user_nid
        ),
    ),
    rule(
        "a browser is signed in to an account that was ended",
        select(browser_sessions.c.user_nid).where(
            browser_sessions.c.user_nid == accounts.c.user_nid, accounts.c.deactivated != 0
        ),
    ),
    rule(
        "a device code was decided as nobody can",
        select(oauth_device_codes.c.user_code).where(none_of(oauth_device_codes.c.verdict, Verdict)),
    ),
    rule(
        "a device code was decided by nobody, or has somebody without a decision",
        select(oauth_device_codes.c.user_code).where(
            (oauth_device_codes.c.verdict != int(Verdict.NONE)) != (oauth_device_codes.c.user_nid != 0)
        ),
    ),
)
