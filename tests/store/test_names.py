"""A name keeps its number when there are more names than memory is given for."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import select
from twisted.internet.defer import Deferred

from homeserver.db.engine import open_engine
from homeserver.db.errors import IntegrityViolation
from homeserver.db.schema.rooms import event_types, rooms, state_keys, user_ids
from homeserver.db.statements import statement
from homeserver.db.threads import Database, InlineDatabase
from homeserver.db.tx import Tx
from homeserver.store.ids import LEASE_SIZE, Interner, Nids, lease_nids, load_rivals
from homeserver.stream.index import MembershipIndex
from homeserver.sync.keys import KeyNumbers
from tests.support.accounts import now
from tests.support.databases import DatabaseCase, on_each_database

BUDGET = 16
# The well-known ones are many.
TYPES = 32
MEMBER = "m.room.member"
_USERS = statement(select(user_ids.c.user_id, user_ids.c.nid))
_KEYS = statement(
    select(event_types.c.type, state_keys.c.state_key, state_keys.c.nid).select_from(
        state_keys.join(event_types, event_types.c.nid == state_keys.c.type_nid)
    )
)
_ROOMS = statement(select(rooms.c.room_id, rooms.c.nid))


_Answers = deque[tuple[Deferred[Any], Deferred[Any]]]


def _some_users() -> list[str]:
    return [f"@{number}:b" for number in range(2 * BUDGET)]


async def _told(binding: Awaitable[Any], found: list[Any]) -> None:
    found.append(await binding)


def _insert(tx: Tx, written: Sequence[Any]) -> None:
    for rows, values in written:
        tx.insert(rows, values)


class _LateDatabase:
    """Reads are made at once, and heard of when ``answer`` is called."""

    def __init__(self, inner: InlineDatabase) -> None:
        self._inner = inner
        self._answers: _Answers = deque()

    def read(self, unit: Any, *args: Any) -> Deferred[Any]:
        result: Deferred[Any] = Deferred()
        self._answers.append((self._inner.read(unit, *args), result))
        return result

    def answer(self) -> None:
        """Tell the oldest answer."""
        found, result = self._answers.popleft()
        found.chainDeferred(result)

    def answer_all(self) -> None:
        while self._answers:
            self.answer()

    def put_off(self) -> _Answers:
        """Those that are not told yet come later than what is asked from now on."""
        late, self._answers = self._answers, deque()
        return late

    def put_back(self, late: _Answers) -> None:
        self._answers += late


@on_each_database
class Names(DatabaseCase):
    """``check_db`` at the end finds a key without a type, and two of a name."""

    def setUp(self) -> None:
        self.database = InlineDatabase(open_engine(self.new_database()))
        self.addCleanup(self.database.stop)
        nids = Nids()
        nids.add(now(self.database.write(lease_nids, LEASE_SIZE)))
        self.interner = Interner(self.database, nids, BUDGET, TYPES)
        self.late = _LateDatabase(self.database)
        self.other = Interner(cast(Database, self.late), nids, BUDGET, TYPES)

    def commit(self, interner: Interner | None = None) -> None:
        """What the committer does with names."""
        interner = interner or self.interner
        written = interner.unsaved()
        now(self.database.write(_insert, written))
        interner.saved(written)

    def users(self) -> dict[str, int]:
        return dict(now(self.database.read(lambda tx: tx.all(_USERS))))

    def keys(self) -> dict[tuple[str, str], int]:
        return {(row[0], row[1]): row[2] for row in now(self.database.read(lambda tx: tx.all(_KEYS)))}

    def fill(self, names: Sequence[str]) -> None:
        """So many users, and keys and rooms of theirs, that the next new one makes the oldest be forgotten."""
        self.assertEqual(BUDGET, len(names))
        now(self.interner.bind_users(names))
        now(self.interner.bind_keys([(MEMBER, name) for name in names]))
        for name in names:
            self.interner.new_room(name, "11")
        self.commit()

    # --- many at once ----------------------------------------------------------------------------

    def test_users_bound_beside_those_who_are_looked_up(self) -> None:
        forgotten, old = (
            [f"@{number}:a" for number in range(BUDGET)],
            [f"@{number}:b" for number in range(BUDGET)],
        )
        self.fill(forgotten)
        self.fill(old)
        stored = self.users()
        now(self.interner.bind_users([forgotten[0], "@new:a", old[0], old[1]]))
        self.commit()
        self.assertEqual({**stored, "@new:a": self.interner.known_user("@new:a")}, self.users())
        self.assertEqual(stored[old[0]], now(self.interner.user(old[0])))

    def test_keys_bound_beside_new_ones(self) -> None:
        old = [f"@{number}:a" for number in range(BUDGET)]
        self.fill(old)
        stored = self.keys()
        new = (MEMBER, "@new:a")
        now(self.interner.bind_keys([new, (MEMBER, old[0]), (MEMBER, old[1])]))
        self.commit()
        self.assertEqual({**stored, new: self.interner.known_key(new)}, self.keys())
        self.assertEqual(stored[MEMBER, old[0]], now(self.interner.state_key((MEMBER, old[0]))))

    def test_keys_of_more_types_than_memory_holds(self) -> None:
        keys = [(f"type.{number}", "") for number in range(2 * TYPES)]
        now(self.interner.bind_keys(keys))
        self.commit()
        stored = self.keys()
        self.assertEqual(sorted(keys), sorted(stored))
        now(self.interner.bind_keys([*keys[TYPES:], *keys[:TYPES]]))
        self.commit()
        self.assertEqual(stored, self.keys())

    def test_more_than_memory_holds_are_found(self) -> None:
        names = [f"@{number}:a" for number in range(BUDGET)]
        self.fill(names)
        more = [f"@{number}:b" for number in range(BUDGET)]
        self.fill(more)
        both = [*more, *names]
        users, keys = self.users(), self.keys()
        self.assertEqual(users, now(self.interner.find_users(both)))
        numbers = {number: name for name, number in users.items()}
        self.assertEqual(numbers, now(self.interner.user_names(numbers)))
        keys_by_number = {number: key for key, number in keys.items()}
        self.assertEqual(keys_by_number, now(self.interner.key_names(keys_by_number)))
        stored = dict(now(self.database.read(lambda tx: tx.all(_ROOMS))))
        self.assertEqual(stored, now(self.interner.find_rooms(both)))
        rooms_by_number = {number: room_id for room_id, number in stored.items()}
        self.assertEqual(rooms_by_number, now(self.interner.room_names(rooms_by_number)))

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

    # --- one by one ------------------------------------------------------------------------------

    def test_a_user_who_was_bound_stored_and_forgotten_while_somebody_looked(self) -> None:
        self.beside(lambda: self.other.user("@a:a"), lambda: self.other.bind_users(_some_users()))
        self.assertEqual({"@a:a", *_some_users()}, set(self.users()))

    def test_a_key_that_was_bound_stored_and_forgotten_while_somebody_looked(self) -> None:
        keys = [(MEMBER, name) for name in _some_users()]
        self.beside(lambda: self.other.state_key((MEMBER, "@a:a")), lambda: self.other.bind_keys(keys))
        self.assertEqual({(MEMBER, "@a:a"), *keys}, set(self.keys()))

    def test_a_type_that_was_bound_stored_and_forgotten_while_somebody_looked(self) -> None:
        keys = [(f"type.{number}", "") for number in range(2 * TYPES)]
        self.beside(lambda: self.other.event_type("type"), lambda: self.other.bind_keys(keys))

    def beside(self, bind: Callable[[], Awaitable[int]], bind_many: Callable[[], Awaitable[None]]) -> None:
        """Bind a name twice; between the two answers it is stored, and forgotten for many others."""
        found: list[int] = []
        for _ in range(2):
            Deferred.fromCoroutine(_told(bind(), found))
        self.late.answer()
        self.commit(self.other)
        late = self.late.put_off()
        Deferred.fromCoroutine(_told(bind_many(), found))
        self.late.answer_all()
        self.commit(self.other)
        self.late.put_back(late)
        self.late.answer_all()
        self.commit(self.other)
        self.assertEqual(found[0], found[2])

    # --- two processes ---------------------------------------------------------------------------

    def test_what_was_stored_after_all_is_written_again(self) -> None:
        now(self.interner.user("@a:a"))
        now(self.interner.state_key(("new.type", "a")))
        self.interner.new_room("!a:a", "11")
        written = self.interner.unsaved()
        self.assertEqual(4, len(written))
        now(self.database.write(_insert, written))
        self.commit()
        self.assertEqual([], self.interner.unsaved())

    def test_a_second_number_for_a_name_is_refused(self) -> None:
        for bind in (
            lambda interner: interner.user("@a:a"),
            lambda interner: interner.state_key((MEMBER, "@a:a")),
            lambda interner: interner.event_type("new.type"),
        ):
            nids = Nids()
            nids.add(now(self.database.write(lease_nids, LEASE_SIZE)))
            other = Interner(self.database, nids)
            now(bind(other))
            now(bind(self.interner))
            self.commit(other)
            with self.assertRaises(IntegrityViolation):
                self.commit()
            self.interner.give_way(now(self.database.read(load_rivals, self.interner.unsaved())))
            self.assertEqual([], self.interner.unsaved())
            self.assertEqual(now(bind(other)), now(bind(self.interner)))

    def test_a_type_that_is_given_up_while_its_keys_are_looked_for(self) -> None:
        found: list[Any] = []
        # One read for the keys of a type that is stored, while that of the other one has a number of ours.
        Deferred.fromCoroutine(_told(self.other.bind_keys([("new.type", "a"), (MEMBER, "@a:a")]), found))
        self.late.answer()
        now(self.interner.event_type("new.type"))
        self.commit()
        self.other.give_way(now(self.database.read(load_rivals, self.other.unsaved())))
        self.late.answer_all()
        self.late.answer_all()
        self.assertEqual(1, len(found))
        self.commit(self.other)
        self.assertEqual({("new.type", "a"), (MEMBER, "@a:a")}, set(self.keys()))

    def test_a_key_of_a_type_that_another_process_has_numbered(self) -> None:
        nids = Nids()
        nids.add(now(self.database.write(lease_nids, LEASE_SIZE)))
        other = Interner(self.database, nids)
        now(self.interner.state_key(("new.type", "a")))
        now(other.event_type("new.type"))
        self.commit(other)
        self.interner.give_way(now(self.database.read(load_rivals, self.interner.unsaved())))
        self.assertEqual([], self.interner.unsaved())
        now(self.interner.state_key(("new.type", "a")))
        self.commit()
        self.assertEqual({("new.type", "a")}, set(self.keys()))

    def test_sync_remembers_no_number_that_was_given_up(self) -> None:
        nids = Nids()
        nids.add(now(self.database.write(lease_nids, LEASE_SIZE)))
        other = Interner(self.database, nids)
        numbers = KeyNumbers(self.interner, MembershipIndex((), {}))
        reader: Any = SimpleNamespace(user_id="@a:a", user_nid=1, device_nid=2, device_id="A")
        now(numbers.prepare(reader))
        name = ("m.room.name", "")
        ours = now(self.interner.state_key(name))
        self.assertEqual(ours, numbers.known(0).name)
        theirs = now(other.state_key(name))
        self.commit(other)
        self.interner.give_way(now(self.database.read(load_rivals, self.interner.unsaved())))
        # An answer that was prepared before finds nothing, which is what there is with that number.
        self.assertEqual(0, numbers.known(0).name)
        now(numbers.prepare(reader))
        self.assertEqual(theirs, numbers.known(0).name)
        self.assertEqual([theirs], now(numbers.ask([name])))
