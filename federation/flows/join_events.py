"""Events of an answer by themselves: checks 1 to 3, on texts and values alone, so that another process may do it.

# spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from federation.auth.select import AUTHORISED_BY
from federation.errors import Malformed
from federation.event import Event, parse_stored, parse_with_texts, stored_bytes
from federation.hashes import check_content_hash
from federation.ids import EventId, KeyId, RoomId, ServerName
from federation.keyring import ServerKeys
from federation.redaction import redact
from federation.signing import required_signers, signature_key_ids, verify_event_signatures
from federation.verdict import Accept
from federation.versions import ROOM_VERSIONS

EventKeys = Mapping[ServerName, Mapping[KeyId, bytes]]


class Terms(msgspec.Struct, array_like=True, frozen=True):
    """What all events of one answer are checked by."""

    room_id: RoomId
    version: str
    """A room version that is known here."""
    keys: Mapping[ServerName, ServerKeys]
    silent: frozenset[ServerName] = frozenset()
    """Servers some of whose keys may be had later."""
    create_id: EventId | None = None
    """The room's create event, where that is known already."""


class Passed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An event that passed."""

    place: int
    """Among the texts that were checked together."""
    event_id: EventId
    type: str
    state_key: str
    auth_ids: tuple[EventId, ...]
    is_plain_join: bool
    """A user lets themselves in, by nobody's leave and not as the room's first (see `join.py`)."""
    text: bytes | None
    """Its canonical form, redacted where the hash is wrong; None where that is the text that was checked."""


class Checked(msgspec.Struct, array_like=True, frozen=True):
    """What came of some texts: events that passed, and servers whose keys lacked, once an event."""

    passed: list[Passed]
    lacking: list[ServerName]


def check_events(texts: Sequence[bytes], terms: Terms) -> Checked:
    """Which texts are state events of this room, signed with these keys. What raises nothing is sound, whoever wrote it."""
    rules = ROOM_VERSIONS[terms.version]
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    keys, silent = terms.keys, terms.silent
    found = Checked([], [])
    for place, text in enumerate(texts):
        try:
            event, stored, signed = parse_with_texts(decode(text), rules, is_old=True)
        except (Malformed, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if event.room_id != terms.room_id or event.state_key is None:
            continue
        required = required_signers(event)
        for_event = {server: keys[server].for_event(event) for server in required if server in keys}
        if silent and (lacking := _lacking(event, required, for_event, silent)):
            found.lacking.extend(lacking)
        elif isinstance(verify_event_signatures(event, required, for_event, signed), Accept):
            if not check_content_hash(event.json, rules):
                event = parse_stored(event.event_id, redact(event.json, rules), rules)
                stored = stored_bytes(event)
            found.passed.append(_pass(place, event, None if stored == text else stored, terms.create_id))
    return found


def _pass(place: int, event: Event, text: bytes | None, create_id: EventId | None) -> Passed:
    event_type, state_key = event.key()
    is_plain = create_id is not None and _is_plain_join(event, create_id)
    return Passed(place, event.event_id, event_type, state_key, event.auth_event_ids, is_plain, text)


def _is_plain_join(event: Event, create_id: EventId) -> bool:
    content = event.content
    return (
        event.type == "m.room.member"
        and event.state_key == event.sender
        and content.get("membership") == "join"
        and AUTHORISED_BY not in content
        and event.prev_event_ids != (create_id,)
    )


def _lacking(
    event: Event, required: Collection[ServerName], keys: EventKeys, silent: Collection[ServerName]
) -> list[ServerName]:
    """The silent servers that say they signed an event, with keys that are not here."""
    lacking: list[ServerName] = []
    for server in sorted(required):
        key_ids = signature_key_ids(event.json["signatures"], server) if server in silent else ()
        if key_ids and not any(key_id in keys.get(server, ()) for key_id in key_ids):
            lacking.append(server)
    return lacking
