"""The two ways of writing an event that has nothing special about it give the same bytes."""

from __future__ import annotations

import unittest

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from homeserver.store.client_events import ClientEvent
from homeserver.store.placement import Membership
from homeserver.store.unsigned import PlainEvents, unsigned_members


def an_event(ts_ms: int, body: str) -> ClientEvent:
    content = msgspec.json.encode({"body": body})
    head = b'{"content":' + content + b',"event_id":"$a","origin_server_ts":%d' % ts_ms
    return ClientEvent(1, "$a", "m.room.message", "@a:b", None, ts_ms, head, content, False, None)


class PlainEventsTests(unittest.TestCase):
    """`PlainEvents.render` against `ClientEvent.render` of `unsigned_members`."""

    @given(
        st.integers(0, 2**53),
        st.integers(0, 2**53),
        st.text(alphabet=st.characters(exclude_categories=["Cs"])),
        st.sampled_from(["!room:example.org", "!100%d%s%%:x", "!\u00e9:x"]),
        st.sampled_from(list(Membership)),
        st.sampled_from([b"", b'"transaction_id":"100%d"']),
    )
    def test_same_bytes(
        self, now_ms: int, ts_ms: int, body: str, room_id: str, membership: Membership, sent_as: bytes
    ) -> None:
        event = an_event(ts_ms, body)
        members = unsigned_members(event, now_ms, membership=membership, sent_as=sent_as)
        slow = event.render(members, room_id)
        self.assertEqual(slow, PlainEvents(room_id, now_ms).render(event, membership, sent_as))
        self.assertEqual(membership.word, msgspec.json.decode(slow)["unsigned"]["membership"])
