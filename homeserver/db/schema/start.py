"""The rows that a new database starts with."""

from __future__ import annotations

from homeserver.db.schema.rooms import event_types, nid_leases
from homeserver.db.schema.stream import stream
from homeserver.db.statements import rows
from homeserver.db.tx import Tx

LEASE_NAME = "nid"
FIRST_FREE_NID = 1_000  # below it: numbers fixed in code

# Types that every room has: their numbers are constants, so that no look-up is needed to speak of them.
WELL_KNOWN_TYPES: dict[str, int] = {
    "m.room.create": 1,
    "m.room.member": 2,
    "m.room.power_levels": 3,
    "m.room.join_rules": 4,
    "m.room.history_visibility": 5,
    "m.room.canonical_alias": 6,
    "m.room.name": 7,
    "m.room.topic": 8,
    "m.room.avatar": 9,
    "m.room.guest_access": 10,
    "m.room.message": 11,
    "m.room.encrypted": 12,
    "m.room.redaction": 13,
    "m.reaction": 14,
    "m.room.tombstone": 15,
    "m.room.encryption": 16,
    "m.space.child": 17,
    "m.space.parent": 18,
    "m.room.server_acl": 19,
    "m.room.third_party_invite": 20,
}


_INSERT_TYPES = rows(event_types, "nid", "type", ignore=True)
_INSERT_LEASE = rows(nid_leases, "name", "next", ignore=True)
_INSERT_STREAM = rows(stream, "id", "pos", ignore=True)


def insert_first_rows(tx: Tx) -> None:
    """The position counter, the number lease and the types with fixed numbers."""
    tx.insert(_INSERT_STREAM, [(1, 0)])
    tx.insert(_INSERT_LEASE, [(LEASE_NAME, FIRST_FREE_NID)])
    tx.insert(_INSERT_TYPES, [(nid, name) for name, nid in WELL_KNOWN_TYPES.items()])
