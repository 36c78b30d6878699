"""A name keeps its number when there are more names than memory is given for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from homeserver.db.engine import open_engine
from homeserver.db.schema.rooms import event_types, state_keys
from homeserver.db.statements import statement
from homeserver.db.threads import InlineDatabase
from homeserver.db.tx import Tx
from homeserver.store.ids import LEASE_SIZE, Interner, Nids, lease_nids
from tests.support.accounts import now
from tests.support.databases import DatabaseCase, on_each_database

# The well-known ones are many.
TYPES = 32
_KEYS = statement(
    select(event_types.c.type, state_keys.c.state_key, state_keys.c.nid).select_from(
        state_keys.join(event_types, event_types.c.nid == state_keys.c.type_nid)
    )
)


def _insert(tx: Tx, written: Sequence[Any]) -> None:
    for rows, values in written:
        tx.insert(rows, values)


@on_each_database
class Names(DatabaseCase):
    """``check_db`` at the end finds a key without a type, and two of a name."""

    def setUp(self) -> None:
        self.database = InlineDatabase(open_engine(self.new_database()))
        self.addCleanup(self.database.stop)
        nids = Nids()
        nids.add(now(self.database.write(lease_nids, LEASE_SIZE)))
        self.interner = Interner(self.database, nids, types=TYPES)

    def commit(self) -> None:
        """What the committer does with names."""
        written = self.interner.unsaved()
        now(self.database.write(_insert, written))
        self.interner.saved(written)

    def keys(self) -> dict[tuple[str, str], int]:
        return {(row[0], row[1]): row[2] for row in now(self.database.read(lambda tx: tx.all(_KEYS)))}

    def test_the_type_of_a_new_key_is_forgotten_before_it_is_stored(self) -> None:
        """A room's initial state, of a type that was used once and of types that were never used, in turn."""
        old = [f"old.{number}" for number in range(TYPES)]
        for name in old:
            now(self.interner.event_type(name))
        self.commit()
        for number, name in enumerate(old):
            now(self.interner.state_key((name, "fresh")))
            now(self.interner.event_type(f"new.{number}"))
        self.commit()
        self.assertIsNone(self.interner.known_type(old[0]))
        self.assertEqual({(name, "fresh") for name in old}, set(self.keys()))
