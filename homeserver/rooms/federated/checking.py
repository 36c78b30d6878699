"""Checks 1 to 3 for events of other servers, many at once: format, signatures, hash.

Signatures cost some 60 microseconds each, so more than a few are verified off the reactor; keys that are not in memory
are fetched where the caller wants to wait for that. Nothing here knows the room's state.

# spec: server-server-api#checks-performed-on-receipt-of-a-pdu
# spec: server-server-api#validating-hashes-and-signatures-on-received-events
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from federation.checks import check_format, check_hash
from federation.event import Event
from federation.hashes import check_content_hash
from federation.ids import KeyId, RoomId, ServerName
from federation.signing import required_signers, signature_key_ids, verify_event_signatures
from federation.verdict import Accept, Drop
from federation.versions import RoomRules
from homeserver.peers.types import EventKeys
from homeserver.runtime.tasks import all_of

RunInThread = Callable[..., Deferred[Any]]

# Up to so many are verified at once in the reactor: a hop to a thread costs about as much as one signature.
_INLINE_MOST = 3
# A thread that holds the interpreter for long delays the reactor as much as the work itself would.
_CHUNK = 100
# LIMIT(made-up signatures name made-up keys; what is beyond counts as not to be had)
_FETCH_MOST = 1_000


@dataclass(frozen=True, slots=True)
class KeysMissing:
    """An event whose author's keys are not known: nothing can be said of it yet."""

    event: Event


Checked = Event | Drop | KeysMissing
_Keys = Mapping[ServerName, Mapping[KeyId, bytes]]
_Asked = tuple[Event, frozenset[ServerName]]  # who must have signed it, which takes a hash to say of some
_Lacking = tuple[ServerName, tuple[KeyId, ...], int, RoomRules]


class EventChecker:
    """See the module."""

    def __init__(self, keys: EventKeys, run_in_thread: RunInThread) -> None:
        self._keys = keys
        self._run_in_thread = run_in_thread

    async def parse(
        self, pdus: Sequence[Any], rules: RoomRules, room_id: RoomId | str, *, is_old: bool = False
    ) -> list[Event | Drop]:
        """Check 1, and whether the event is of this room. In the order of the arguments.

        ``is_old``: see ``federation.event.parse_untrusted``.
        """
        if len(pdus) <= _CHUNK:
            return _parse_all(pdus, rules, room_id, is_old)
        found: list[Event | Drop] = []
        for start in range(0, len(pdus), _CHUNK):
            chunk = pdus[start : start + _CHUNK]
            found += await self._run_in_thread(_parse_all, chunk, rules, room_id, is_old)
        return found

    async def verify(self, events: Sequence[Event], *, fetch: bool) -> list[Checked]:
        """Checks 2 and 3; the events come back as they are to be processed further, in the same order.

        Without ``fetch`` keys that are not in memory make it a ``KeysMissing``; with it, those that cannot be had.
        """
        asked = await self._asked(events)
        keys: list[_Keys | None] = [self._known(*one) for one in asked]
        if fetch and None in keys:
            await self._fetch(one for one, found in zip(asked, keys, strict=True) if found is None)
            keys = [
                self._known(*one) if found is None else found for one, found in zip(asked, keys, strict=True)
            ]
        ready = [(one, found) for one, found in zip(asked, keys, strict=True) if found is not None]
        verified = iter(await self._verify(ready))
        return [
            KeysMissing(event) if found is None else next(verified)
            for event, found in zip(events, keys, strict=True)
        ]

    async def check(self, pdus: Sequence[Any], rules: RoomRules, room_id: RoomId | str) -> list[Event]:
        """Those of an answer's events that pass, which may be old; the rest is of no use to anybody."""
        parsed = await self.parse(pdus, rules, room_id, is_old=True)
        found = await self.verify([one for one in parsed if isinstance(one, Event)], fetch=True)
        return [one for one in found if isinstance(one, Event)]

    async def _asked(self, events: Sequence[Event]) -> list[_Asked]:
        if len(events) <= _CHUNK:
            return _ask_all(events)
        found: list[_Asked] = []
        for start in range(0, len(events), _CHUNK):
            found += await self._run_in_thread(_ask_all, events[start : start + _CHUNK])
        return found

    async def _verify(self, ready: Sequence[tuple[_Asked, _Keys]]) -> list[Event | Drop]:
        if len(ready) <= _INLINE_MOST:
            return _verify_all(ready)
        found: list[Event | Drop] = []
        for start in range(0, len(ready), _CHUNK):
            found += await self._run_in_thread(_verify_all, ready[start : start + _CHUNK])
        return found

    def _known(self, event: Event, required: frozenset[ServerName]) -> _Keys | None:
        """The keys of all who must have signed; an empty mapping of one who has not signed at all."""
        found: dict[ServerName, Mapping[KeyId, bytes]] = {}
        for server_name in sorted(required):
            key_ids = signature_key_ids(event.json.get("signatures"), server_name)
            keys: Mapping[KeyId, bytes] | None = {}
            if key_ids:
                keys = self._keys.known_for_event(server_name, key_ids, event.origin_server_ts, event.rules)
            if keys is None:
                return None
            found[server_name] = keys
        return found

    async def _fetch(self, asked: Iterable[_Asked]) -> None:
        """Side by side, one request for what the same key of a server signed; the key ring holds them to bounds."""
        wanted: dict[tuple[ServerName, tuple[KeyId, ...]], _Lacking] = {}
        for event, required in asked:
            for server_name in sorted(required):
                key_ids = signature_key_ids(event.json.get("signatures"), server_name)
                known = wanted.get((server_name, key_ids))
                ts_ms = event.origin_server_ts if known is None else max(known[2], event.origin_server_ts)
                if len(wanted) < _FETCH_MOST or known is not None:
                    wanted[(server_name, key_ids)] = (server_name, key_ids, ts_ms, event.rules)
        waiting = [Deferred.fromCoroutine(self._keys.for_event(*one, fetch=True)) for one in wanted.values()]
        await all_of(waiting)


def _parse_all(
    pdus: Sequence[Any], rules: RoomRules, room_id: RoomId | str, is_old: bool
) -> list[Event | Drop]:
    found: list[Event | Drop] = []
    for pdu in pdus:
        event = check_format(pdu, rules, is_old=is_old)
        if isinstance(event, Event) and event.room_id != room_id:
            event = Drop("it is of another room")
        found.append(event)
    return found


def _ask_all(events: Sequence[Event]) -> list[_Asked]:
    return [(event, required_signers(event)) for event in events]


def _verify_all(ready: Sequence[tuple[_Asked, _Keys]]) -> list[Event | Drop]:
    found: list[Event | Drop] = []
    for (event, required), keys in ready:
        verdict = verify_event_signatures(event, required, keys)
        if isinstance(verdict, Accept):
            found.append(check_hash(event, check_content_hash(event.json, event.rules)))
        else:
            found.append(Drop(verdict.reason))
    return found
