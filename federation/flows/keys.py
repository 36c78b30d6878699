"""Fetching the keys of servers: from the server itself, then from notaries that we trust. Pure: see `needs.py`.

What a server says of itself over its own connection is asked for first; a notary is for servers that are gone or that
we cannot reach. Either way the answer must be signed by the server's own keys.

# spec: server-server-api#retrieving-server-keys
# spec: server-server-api#querying-keys-through-another-server
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from federation.errors import Malformed
from federation.flows.needs import NeedKeys, NeedPeer
from federation.ids import KeyId, ServerName
from federation.keyring import ServerKeys, parse_key_response, parse_notary_entries

MAX_KEY_BYTES: Final = 64 * 1024
MAX_NOTARY_BYTES: Final = 4 * 1024 * 1024
# With the time to find the server, which may lie behind a wall that swallows what is not for port 8448.
DIRECT_TIMEOUT_S: Final = 15.0
NOTARY_TIMEOUT_S: Final = 20.0
# LIMIT(a notary fetches each of them while we wait)
MAX_PER_QUERY: Final = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """Keys of a server, one of which should be good until a moment. No key ids: whatever it signs with now."""

    server_name: ServerName
    key_ids: tuple[KeyId, ...]
    until_ts_ms: int
    is_current: bool = False
    """What the server does not say that it uses is not wanted, so that no notary need be asked beside it."""

    def is_met(self, keys: ServerKeys | None) -> bool:
        """Whether nothing need be asked any more."""
        if keys is None:
            return False
        if not self.key_ids:
            return any(key.is_valid_for_request(self.until_ts_ms) for key in keys.keys.values())
        found = (keys.keys.get(key_id) for key_id in self.key_ids)
        return any(key is not None and self.until_ts_ms <= key.valid_until_ts_ms for key in found)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Keys, and the signed object that they come from: a notary hands it on."""

    keys: ServerKeys
    response: Mapping[str, Any]
    is_direct: bool
    """Whether the server said so itself, to us."""


def fetch_direct(
    server_name: ServerName, now_ms: int
) -> Generator[NeedPeer, dict[str, Any] | None, Fetched | None]:
    """What a server says of its own keys."""
    response = yield NeedPeer(
        server_name, "GET", "/_matrix/key/v2/server", None, MAX_KEY_BYTES, DIRECT_TIMEOUT_S
    )
    if response is None:
        return None
    try:
        return Fetched(parse_key_response(response, server_name, now_ms), response, is_direct=True)
    except Malformed:
        return None


def fetch_from_notary(
    wanted: Sequence[Wanted], notary: ServerName, now_ms: int
) -> Generator[NeedPeer | NeedKeys, Any, list[Fetched]]:
    """What one notary has of many servers, in as few queries as possible. Other servers' keys are not taken."""
    if not wanted:
        return []
    notary_keys: Mapping[KeyId, bytes] = yield NeedKeys(notary)
    if not notary_keys:
        return []
    found: list[Fetched] = []
    waiting = iter(wanted)
    while batch := list(islice(waiting, MAX_PER_QUERY)):
        response = yield NeedPeer(
            notary,
            "POST",
            "/_matrix/key/v2/query",
            {"server_keys": {one.server_name: _criteria(one) for one in batch}},
            MAX_NOTARY_BYTES,
            NOTARY_TIMEOUT_S,
            insist=False,
        )
        if response is None:
            return found
        asked = {one.server_name for one in batch}
        try:
            entries = parse_notary_entries(response, notary, notary_keys, now_ms)
        except Malformed:
            return found
        found += [
            Fetched(keys, entry, is_direct=False) for keys, entry in entries if keys.server_name in asked
        ]
    return found


def _criteria(wanted: Wanted) -> dict[str, Any]:
    return {key_id: {"minimum_valid_until_ts": wanted.until_ts_ms} for key_id in wanted.key_ids}


def fetch_keys(
    wanted: Wanted, notaries: Sequence[ServerName], now_ms: int
) -> Generator[NeedPeer | NeedKeys, Any, list[Fetched]]:
    """Everything that was found on the way to what is wanted; the last of it may still not be enough."""
    found: list[Fetched] = []
    direct = yield from fetch_direct(wanted.server_name, now_ms)
    if direct is not None:
        found.append(direct)
        if wanted.is_current or wanted.is_met(direct.keys):
            return found
    for notary in notaries:
        if notary == wanted.server_name:
            continue
        answers = yield from fetch_from_notary([wanted], notary, now_ms)
        found += answers
        if any(wanted.is_met(one.keys) for one in answers):
            break
    return found
