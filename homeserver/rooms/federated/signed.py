"""Events that another server hands over by themselves: read and held to the checks that need no room. And events of ours
that it signed too.

# spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from federation.errors import Malformed, NotCanonical
from federation.event import Event, parse_untrusted
from federation.hashes import check_content_hash, decode_base64, unpadded
from federation.ids import KeyId, ServerName
from federation.signing import (
    Signatures,
    required_signers,
    signature_key_ids,
    verify_event_signatures,
    with_signatures,
)
from federation.verdict import Accept
from federation.versions import RoomRules
from homeserver.http.errors import bad_json, invalid_param
from homeserver.peers.types import EventKeys


def parse_event(data: dict[str, Any], rules: RoomRules) -> Event:
    """The event; refuses (400) what has not the form of the room's version."""
    try:
        return parse_untrusted(data, rules)
    except Malformed as error:
        # spec: rooms/v6#canonical-json ("400 M_BAD_JSON on most endpoints")
        refuse = bad_json if isinstance(error, NotCanonical) else invalid_param
        raise refuse(f"Not an event of this room version: {error.message}") from error


async def check_signed(event: Event, keys: EventKeys, own: Collection[ServerName] = ()) -> None:
    """Refuse (400) an event that is not signed as it must be, or whose content is not what was signed.

    ``own`` are servers whose signature is not looked at, as it is ours to give.
    """
    required = [name for name in sorted(required_signers(event)) if name not in own]
    if not await is_signed(event, required, keys):
        raise invalid_param("The event is not signed as it must be")
    if not check_content_hash(event.json, event.rules):
        raise invalid_param("The hash of the event's content is wrong")


async def is_signed(event: Event, required: Sequence[ServerName], keys: EventKeys) -> bool:
    """Whether some servers signed an event."""
    found = await _keys_of(event, required, keys)
    return isinstance(verify_event_signatures(event, required, found), Accept)


async def co_signed(
    event: Event, signatures: Signatures, servers: Sequence[ServerName], keys: EventKeys
) -> Event | None:
    """An event of ours with what some servers signed of it; None where one of them did not.

    Of what they hand back only signatures by known keys are taken: the rest could be anything, of any size.
    """
    claimed = {name: signatures.get(name, {}) for name in servers}
    signed = replace(event, json={**event.json, "signatures": claimed})
    found = await _keys_of(signed, servers, keys)
    if not isinstance(verify_event_signatures(signed, servers, found), Accept):
        return None
    verified: dict[str, dict[str, str]] = {
        name: {
            key_id: unpadded(decode_base64(by_key[key_id]))
            for key_id in signature_key_ids(claimed, name)
            if key_id in found[name]
        }
        for name, by_key in claimed.items()
    }
    return with_signatures(event, verified)


async def _keys_of(
    event: Event, servers: Sequence[ServerName], keys: EventKeys
) -> dict[ServerName, Mapping[KeyId, bytes]]:
    found: dict[ServerName, Mapping[KeyId, bytes]] = {}
    for name in servers:
        key_ids = signature_key_ids(event.json.get("signatures"), name)
        found[name] = await keys.for_event(name, key_ids, event.origin_server_ts, event.rules, fetch=True)
    return found
