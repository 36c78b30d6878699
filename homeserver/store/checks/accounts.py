"""Invariants of addresses."""

from __future__ import annotations

from sqlalchemy import func, select

from homeserver.db.schema.accounts import accounts, erasures
from homeserver.db.schema.threepids import threepid_bindings, threepids, validations
from homeserver.store.checks.rules import Rule, none_of, points_nowhere, rule
from homeserver.store.validations import Purpose

ADDRESSES: tuple[Rule, ...] = (
    points_nowhere(threepids.c.user_nid, accounts.c.user_nid),
    points_nowhere(threepid_bindings.c.user_nid, accounts.c.user_nid),
    rule(
        "a deactivated account has addresses",
        select(threepids.c.user_nid, threepids.c.address).where(
            threepids.c.user_nid == accounts.c.user_nid, accounts.c.deactivated != 0
        ),
    ),
    rule(
        "an erased account without its erasure",
        select(accounts.c.user_nid).where(
            accounts.c.erased != 0, accounts.c.user_nid.not_in(select(erasures.c.user_nid))
        ),
    ),
    rule(
        "an erasure of an account that is not erased",
        select(erasures.c.user_nid).where(
            erasures.c.user_nid.not_in(select(accounts.c.user_nid).where(accounts.c.erased != 0))
        ),
    ),
    rule(
        "an address with capitals",
        select(threepids.c.address).where(
            threepids.c.medium == "email", threepids.c.address != func.lower(threepids.c.address)
        ),
    ),
    rule(
        "a guest has a password",
        select(accounts.c.user_nid).where(accounts.c.guest != 0, accounts.c.password_hash.is_not(None)),
    ),
    rule(
        "a validation is for no known purpose",
        select(validations.c.sid).where(none_of(validations.c.purpose, Purpose)),
    ),
    rule(
        "a validation has a negative number of wrong tokens",
        select(validations.c.sid).where(validations.c.wrong_tokens < 0),
    ),
)
