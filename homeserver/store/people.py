"""People as the rooms show them, and those who have an account here, for the user directory.

spec: client-server-api#user-directory
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, select

from federation.ids import is_content_uri, may_stand_alone
from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.rooms import (
    current_state,
    event_json,
    events,
    redactions,
    rooms,
    user_ids,
)
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.directory import load_room_keys
from homeserver.store.profiles import load_names_and_avatars
from homeserver.store.search import fits

# LIMIT(time: each is a look into what two events of the room say): of more rooms that others are in, the newest
_ROOMS_MOST = 5_000
# LIMIT(time: each name is taken apart into words): of more accounts, the newest, and of a longer name its beginning
_ACCOUNTS_MOST, _NAME_MOST = 5_000, 128
_OPEN_TYPES = ("m.room.join_rules", "m.room.history_visibility")

# Rooms first: by the keys alone the database would walk through the members of every room.
_NEWEST = statement(select(rooms.c.nid).order_by(rooms.c.nid.desc()).limit(bindparam("most")))
_OPEN = statement(
    select(current_state.c.room_nid, event_json.c.json)
    .select_from(current_state.join(event_json, event_json.c.nid == current_state.c.event_nid))
    .where(and_(any_of(current_state.c.room_nid, "room_nids"), any_of(current_state.c.state_key_nid, "keys")))
)
# Of memberships that were found by their words: those that are in force, and not redacted.
_IN_FORCE = statement(
    select(events.c.nid, event_json.c.json)
    .select_from(
        events.join(
            current_state,
            and_(
                current_state.c.room_nid == events.c.room_nid,
                current_state.c.state_key_nid == events.c.state_key_nid,
                current_state.c.event_nid == events.c.nid,
            ),
        )
        .join(event_json, event_json.c.nid == events.c.nid)
        .outerjoin(redactions, redactions.c.target_id == events.c.event_id)
    )
    .where(and_(any_of(events.c.nid, "nids"), redactions.c.by_nid.is_(None)))
)

_ACCOUNT = accounts.join(user_ids, user_ids.c.nid == accounts.c.user_nid)
# Nobody is behind a guest's name for long, nor behind one that is locked.
_CAN_ANSWER = and_(accounts.c.deactivated == 0, accounts.c.guest == 0, accounts.c.locked == 0)
_NAMED = statement(
    select(user_ids.c.user_id, accounts.c.user_nid)
    .select_from(_ACCOUNT)
    .where(and_(user_ids.c.user_id == bindparam("the_user_id"), _CAN_ANSWER))
)
# Not the ghosts of bridges: there may be more of them than of everybody else.
_NEWEST_ACCOUNTS = statement(
    select(user_ids.c.user_id, accounts.c.user_nid)
    .select_from(_ACCOUNT)
    .where(and_(_CAN_ANSWER, accounts.c.appservice_id.is_(None)))
    .order_by(accounts.c.user_nid.desc())
    .limit(bindparam("most"))
)


class _Content(msgspec.Struct):
    join_rule: Any = None
    history_visibility: Any = None
    membership: Any = None
    displayname: Any = None
    avatar_url: Any = None


class _Event(msgspec.Struct):
    state_key: str
    content: _Content


_decode = msgspec.json.Decoder(_Event).decode


def load_open_rooms(tx: Tx) -> set[int]:
    """The rooms that anybody may join or read."""
    keys = load_room_keys(tx, _OPEN_TYPES)
    found: set[int] = set()
    newest = tx.column(_NEWEST, most=_ROOMS_MOST)
    for room_nid, json in tx.all(_OPEN, room_nids=newest, keys=keys):
        content = _decode(json).content
        if content.join_rule == "public" or content.history_visibility == "world_readable":
            found.add(room_nid)
    return found


def load_people(tx: Tx, nids: Collection[int]) -> dict[int, dict[str, str]]:
    """Those who are in a room by these memberships, by event nid, as the directory shows them."""
    found: dict[int, dict[str, str]] = {}
    for nid, json in tx.all(_IN_FORCE, nids=list(nids)):
        event = _decode(json)
        if event.content.membership == "join" and may_stand_alone(event.state_key):
            shown = {"displayname": event.content.displayname, "avatar_url": event.content.avatar_url}
            found[nid] = _person(event.state_key, shown)
    return found


def find_account(tx: Tx, user_id: str) -> dict[str, str] | None:
    """Who has this very name here, as their profile shows them; None for nobody, or nobody who could answer."""
    row = tx.one(_NAMED, the_user_id=user_id)
    return None if row is None else _persons(tx, [row])[0]


def find_accounts(tx: Tx, phrases: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Who has an account here and a name that fits, as their profiles show them, the newest first."""
    people = _persons(tx, tx.all(_NEWEST_ACCOUNTS, most=_ACCOUNTS_MOST)) if phrases else []
    return [
        one
        for one in people
        if fits(f"{one.get('display_name', '')[:_NAME_MOST]}\n{one['user_id']}", phrases)
    ]


def _persons(tx: Tx, rows: Sequence[tuple[str, int]]) -> list[dict[str, str]]:
    profiles = load_names_and_avatars(tx, [user_nid for _, user_nid in rows])
    return [_person(user_id, profiles.get(user_nid, {})) for user_id, user_nid in rows]


def _person(user_id: str, shown: Mapping[str, Any]) -> dict[str, str]:
    person = {"user_id": user_id}
    if isinstance(name := shown.get("displayname"), str):
        person["display_name"] = name
    if is_content_uri(url := shown.get("avatar_url")):
        person["avatar_url"] = url
    return person
