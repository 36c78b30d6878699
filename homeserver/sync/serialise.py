"""The pieces of a sync's answer as bytes. Contents are spliced, never decoded, but for filters that ask for fields.

spec: client-server-api#get_matrixclientv3sync
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from homeserver.store.client_events import ClientEvent
from homeserver.store.outside import shown_outside
from homeserver.store.placement import Membership
from homeserver.store.receipts import ReceiptChange
from homeserver.store.unsigned import render_plain, unsigned_members
from homeserver.stream.tokens import timeline_token
from homeserver.sync.filters import SyncFilter, pick_fields
from homeserver.sync.types import Counts, Tally

encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode

NO_EVENTS = b'{"events":[]}'
_RECEIPT_KINDS = ("m.read", "m.read.private")
_PRIVATE = 1


class Writer:
    """Writes events in the form that a filter asks for. ``raw``: federation format, the stored events by nid."""

    __slots__ = ("_fields", "_plain", "_raw", "now_ms")

    def __init__(self, filter_: SyncFilter, now_ms: int, raw: Mapping[int, bytes] | None = None) -> None:
        self._fields = filter_.event_fields
        self._raw = raw
        self._plain = raw is None and filter_.event_fields is None
        self.now_ms = now_ms

    def write(
        self,
        event: ClientEvent,
        membership: Membership | None = None,
        previous: ClientEvent | None = None,
        sent_as: bytes = b"",
        *,
        hide_previous: bool = False,
        relations: bytes = b"",
    ) -> bytes:
        """One event. ``hide_previous``: the reader may know which event was replaced, and not what it said."""
        if previous is None and not sent_as and not relations and self._plain:
            data = render_plain(event, self.now_ms, membership)
            if data:
                return data
        if self._raw is not None and event.nid in self._raw:
            data = self._raw[event.nid]
        else:
            unsigned = unsigned_members(
                event,
                self.now_ms,
                membership=membership,
                previous=previous,
                sent_as=sent_as,
                hide_previous=hide_previous,
                relations=relations,
            )
            data = event.render(unsigned)
        return data if self._fields is None else encode(pick_fields(_decode(data), self._fields))

    def write_state(
        self, events: Iterable[ClientEvent], replaced: Mapping[int, int], known: Mapping[int, ClientEvent]
    ) -> list[bytes]:
        """Events of a state, with what each of them ``replaced`` (nid by nid) where that is ``known``."""
        return [self.write(event, None, known.get(replaced.get(event.nid, 0))) for event in events]


def decode_object(text: str) -> dict[str, Any]:
    """A stored JSON object."""
    found: dict[str, Any] = _decode(text)
    return found


def split_list(text: str) -> list[bytes]:
    """The elements of a stored JSON list, as they are written there."""
    return [bytes(one) for one in _split(text)]


def outside_event(event: Mapping[str, Any], event_id: str) -> bytes:
    """An event that is no event of this server's, as clients see events."""
    return encode(shown_outside(event, event_id))


def events_object(events: Iterable[bytes]) -> bytes:
    """``{"events": […]}``."""
    return b'{"events":[' + b",".join(events) + b"]}"


def timeline_object(events: Iterable[bytes], limited: bool, before: int) -> bytes:
    """A timeline; ``before``: the position just before its first event."""
    # spec: client-server-api#get_matrixclientv3sync (timeline, prev_batch)
    return b'{"events":[%b],"limited":%b,"prev_batch":"%b"}' % (
        b",".join(events),
        b"true" if limited else b"false",
        timeline_token(before).encode(),
    )


def summary_object(joined: int, invited: int, heroes: list[str] | None) -> bytes:
    """A room's summary."""
    counts = b'"m.joined_member_count":%d,"m.invited_member_count":%d' % (joined, invited)
    if heroes is None:
        return b"{" + counts + b"}"
    return b'{"m.heroes":' + encode(heroes) + b"," + counts + b"}"


def counts_members(counts: Counts, by_thread: bool) -> bytes:
    """The members of a room that tell of unread notifications."""
    # spec: client-server-api#get_matrixclientv3sync (unread_notifications, unread_thread_notifications)
    notifications, highlights = counts.notification_count, counts.highlight_count
    threads = counts.threads
    if not by_thread:
        notifications += sum(one.notification_count for one in threads.values())
        highlights += sum(one.highlight_count for one in threads.values())
    members = b'"unread_notifications":{"notification_count":%d,"highlight_count":%d}' % (
        notifications,
        highlights,
    )
    if by_thread:
        told = {
            root: _tally(one)
            for root, one in threads.items()
            if one.notification_count or one.highlight_count
        }
        if told:
            members += b',"unread_thread_notifications":' + encode(told)
    return members


def _tally(tally: Tally) -> dict[str, int]:
    return {"notification_count": tally.notification_count, "highlight_count": tally.highlight_count}


def account_data_event(type_: str, content: str) -> bytes:
    """One piece of account data; its content is JSON already."""
    return b'{"type":' + encode(type_) + b',"content":' + content.encode() + b"}"


def typing_event(user_ids: Sequence[str]) -> bytes:
    """Who is typing."""
    return encode({"type": "m.typing", "content": {"user_ids": list(user_ids)}})


def receipt_events(
    changes: Iterable[ReceiptChange], reader_nid: int = 0, ignored: Collection[str] = ()
) -> list[bytes]:
    """Receipts as ``m.receipt`` events; private ones are their owner's alone, and of several only the newest counts.

    One object has one place for an event, kind and user: where the same user has receipts of two threads at one
    event, a second object takes the second.
    """
    # spec: client-server-api#receipts
    bodies: list[dict[str, dict[str, dict[str, Any]]]] = []
    # An object has no order: a receipt that was moved on must not stand beside the one that it moved to.
    newest = {(one.user_nid, one.kind, one.thread): one for one in changes}
    for one in newest.values():
        if (one.kind == _PRIVATE and one.user_nid != reader_nid) or one.user_id in ignored:
            continue
        receipt: dict[str, Any] = {"ts": one.ts_ms}
        if one.thread:
            receipt["thread_id"] = one.thread
        for body in bodies:
            users = body.setdefault(one.event_id, {}).setdefault(_RECEIPT_KINDS[one.kind], {})
            if one.user_id not in users:
                users[one.user_id] = receipt
                break
        else:
            bodies.append({one.event_id: {_RECEIPT_KINDS[one.kind]: {one.user_id: receipt}}})
    return [encode({"type": "m.receipt", "content": body}) for body in bodies]
