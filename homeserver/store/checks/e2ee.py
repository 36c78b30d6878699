"""Invariants of keys and of messages to devices."""

from __future__ import annotations

from sqlalchemy import and_, exists, func, literal, or_, select

from homeserver.db.schema.accounts import access_tokens, accounts, devices, refresh_tokens
from homeserver.db.schema.e2ee import (
    dehydrated_devices,
    device_keys,
    device_transactions,
    fallback_keys,
    key_signatures,
    list_changes,
    one_time_counts,
    one_time_keys,
    remote_devices,
    remote_lists,
    signature_changes,
    signing_keys,
    to_device,
    to_device_out,
)
from homeserver.db.schema.rooms import user_ids
from homeserver.store.checks.rules import Rule, ahead, none_of, points_nowhere, rule

_has_account = exists(select(literal(1)).where(accounts.c.user_nid == signing_keys.c.user_nid))
_has_list = exists(select(literal(1)).where(remote_lists.c.user_nid == signing_keys.c.user_nid))
_kept_keys = (
    select(func.count())
    .where(
        one_time_keys.c.device_nid == one_time_counts.c.device_nid,
        one_time_keys.c.algorithm == one_time_counts.c.algorithm,
        one_time_keys.c.number >= one_time_counts.c.given,
        one_time_keys.c.number < one_time_counts.c.uploaded,
    )
    .scalar_subquery()
)
_is_counted = exists(
    select(literal(1)).where(
        one_time_counts.c.device_nid == one_time_keys.c.device_nid,
        one_time_counts.c.algorithm == one_time_keys.c.algorithm,
        one_time_counts.c.uploaded > one_time_keys.c.number,
    )
)

ENCRYPTION: tuple[Rule, ...] = (
    *(
        points_nowhere(table.c.device_nid, devices.c.nid)
        for table in (
            device_keys,
            one_time_counts,
            fallback_keys,
            to_device,
            dehydrated_devices,
        )
    ),
    # Below 0: of a user without a device.
    points_nowhere(device_transactions.c.device_nid, devices.c.nid, device_transactions.c.device_nid > 0),
    *(
        points_nowhere(column, user_ids.c.nid)
        for column in (
            signing_keys.c.user_nid,
            key_signatures.c.target_nid,
            list_changes.c.user_nid,
            remote_lists.c.user_nid,
            signature_changes.c.target_nid,
        )
    ),
    points_nowhere(key_signatures.c.signer_nid, accounts.c.user_nid),
    points_nowhere(signature_changes.c.signer_nid, accounts.c.user_nid),
    points_nowhere(remote_devices.c.user_nid, remote_lists.c.user_nid),
    *(
        ahead(column)
        for column in (
            to_device.c.pos,
            to_device_out.c.pos,
            list_changes.c.pos,
            signature_changes.c.pos,
            remote_lists.c.pos,
        )
    ),
    rule(
        "device keys of another user than the device's",
        select(device_keys.c.device_nid).where(
            devices.c.nid == device_keys.c.device_nid, devices.c.user_nid != device_keys.c.user_nid
        ),
    ),
    rule(
        "a dehydrated device of another user than the device's, or one without keys",
        select(dehydrated_devices.c.device_nid)
        .select_from(
            dehydrated_devices.join(devices, devices.c.nid == dehydrated_devices.c.device_nid).outerjoin(
                device_keys, device_keys.c.device_nid == dehydrated_devices.c.device_nid
            )
        )
        .where(or_(devices.c.user_nid != dehydrated_devices.c.user_nid, device_keys.c.device_nid.is_(None))),
    ),
    *(
        rule(
            "somebody is logged in as a dehydrated device",
            select(dehydrated_devices.c.device_nid).where(
                tokens.c.device_nid == dehydrated_devices.c.device_nid
            ),
        )
        for tokens in (access_tokens, refresh_tokens)
    ),
    rule(
        "one-time keys that are to be given out are not there",
        select(one_time_counts.c.device_nid, one_time_counts.c.algorithm).where(
            one_time_counts.c.uploaded - one_time_counts.c.given != _kept_keys
        ),
    ),
    rule(
        "one-time keys that nobody counts",
        select(one_time_keys.c.device_nid, one_time_keys.c.algorithm, one_time_keys.c.number).where(
            ~_is_counted
        ),
    ),
    rule(
        "the messages for a device are not numbered one after the other",
        select(to_device.c.device_nid)
        .group_by(to_device.c.device_nid)
        .having(func.max(to_device.c.place) - func.min(to_device.c.place) + 1 != func.count()),
    ),
    rule(
        "the device list of an account of this server is kept as another's",
        select(remote_lists.c.user_nid).where(accounts.c.user_nid == remote_lists.c.user_nid),
    ),
    rule(
        "cross-signing keys of nobody's",
        select(signing_keys.c.user_nid, signing_keys.c.usage).where(and_(~_has_account, ~_has_list)),
    ),
    rule(
        "a device is called as a cross-signing key of its user",
        select(devices.c.nid, devices.c.device_id).where(
            signing_keys.c.user_nid == devices.c.user_nid, signing_keys.c.public_key == devices.c.device_id
        ),
    ),
    rule(
        "a flag is neither 0 nor 1",
        select(fallback_keys.c.device_nid).where(
            or_(none_of(fallback_keys.c.used, [0, 1]), fallback_keys.c.key_id == "")
        ),
    ),
)
