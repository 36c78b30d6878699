"""Fetching the keys of servers: from the server itself, then from notaries that we trust. Pure: see `needs.py`.

What a server says of itself over its own connection is asked for first; a notary is for servers that are gone or that
we cannot reach. Either way the answer must be signed by the server's own keys.

# spec: server-server-api#retrieving-server-keys
# spec: server-server-api#querying-keys-through-another-server
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from federation.errors import Malformed
from federation.flows.needs import NeedKeys, NeedPeer
from federation.ids import KeyId, ServerName
from federation.keyring import MAX_RESPONSES, ServerKeys, parse_key_response, parse_notary_entries

MAX_KEY_BYTES: Final = 64 * 1024
MAX_NOTARY_BYTES: Final = 4 * 1024 * 1024
# With the time to find the server, which may lie behind a wall that swallows what is not for port 8448.
DIRECT_TIMEOUT_S: Final = 15.0
NOTARY_TIMEOUT_S: Final = 20.0
# LIMIT(a notary fetches each of them while we wait)
MAX_PER_QUERY: Final = 100
# LIMIT(key ids may be made up by whoever writes an event; so many of one server a notary is asked for)
MAX_KEY_IDS: Final = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """Keys of a server, one of which should be good until a moment. No key ids: whatever it signs with now.

    Who needs several keys of a server wants each by itself: that one of them is known says nothing of the others.
    """

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
    for query in _queries(wanted):
        response = yield NeedPeer(
            notary,
            "POST",
            "/_matrix/key/v2/query",
            {"server_keys": query},
            MAX_NOTARY_BYTES,
            NOTARY_TIMEOUT_S,
            insist=False,
        )
        if response is None:
            return found
        try:
            entries = parse_notary_entries(response, notary, notary_keys, now_ms)
        except Malformed:
            return found
        found += [
            Fetched(keys, entry, is_direct=False) for keys, entry in entries if keys.server_name in query
        ]
    return found


def by_server(wanted: Iterable[Wanted]) -> dict[ServerName, list[Wanted]]:
    """What is wanted of each server."""
    found: dict[ServerName, list[Wanted]] = {}
    for one in wanted:
        found.setdefault(one.server_name, []).append(one)
    return found


def _queries(wanted: Sequence[Wanted]) -> Iterator[dict[ServerName, dict[KeyId, Any]]]:
    """Queries to a notary, none of which can have more answers than are read: it may give one for each key."""
    query: dict[ServerName, dict[KeyId, Any]] = {}
    for server_name, ones in by_server(wanted).items():
        criteria = {
            key_id: {"minimum_valid_until_ts": until_ts_ms}
            for key_id, until_ts_ms in until_by_key(ones).items()
        }
        keys = sum(map(len, query.values())) + len(criteria)
        if len(query) >= MAX_PER_QUERY or keys > MAX_RESPONSES:
            yield query
            query = {}
        query[server_name] = criteria
    if query:
        yield query


def until_by_key(wanted: Sequence[Wanted]) -> dict[KeyId, int]:
    """Which keys of one server a notary is asked for, and until when each should be good."""
    found: dict[KeyId, int] = {}
    for one in wanted:
        for key_id in one.key_ids:
            if key_id in found or len(found) < MAX_KEY_IDS:
                found[key_id] = max(one.until_ts_ms, found.get(key_id, 0))
    return found


def fetch_keys(
    server_name: ServerName, wanted: Sequence[Wanted], notaries: Sequence[ServerName], now_ms: int
) -> Generator[NeedPeer | NeedKeys, Any, list[Fetched]]:
    """Everything that was found on the way to what is wanted of a server; it may still not be enough."""
    found: list[Fetched] = []
    direct = yield from fetch_direct(server_name, now_ms)
    left = list(wanted)
    if direct is not None:
        found.append(direct)
        left = [one for one in left if not (one.is_current or one.is_met(direct.keys))]
    for notary in notaries:
        if notary == server_name:
            continue
        answers = yield from fetch_from_notary(left, notary, now_ms)
        found += answers
        left = [one for one in left if not any(one.is_met(answer.keys) for answer in answers)]
    return found
