"""The newest texts that hold some words, from the index that ``store/search.py`` keeps. See docs/how/search.md.

A word may be in every third text, and a room may hold next to nothing. So each database looks in two ways, of which the
first is bounded and enough for what is common, and the second is for what is not:

1. SQLite goes through the newest texts with the words, wherever they are, and PostgreSQL through the newest of all texts.
2. The index brings together the texts that have the words, and where the rooms are a small part of all, those that have
   the marks of the rooms as well.

# spec: client-server-api#server-side-search
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, and_, bindparam, cast, func, literal_column, select
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.sql import ClauseElement

from homeserver.db.schema.rooms import current_state, state_keys
from homeserver.db.schema.search import fts_words, search_documents, vector_words
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import SQLITE, Statement, any_of, statement
from homeserver.db.tx import Tx

NEWEST_PLACE = 2**63 - 1
# LIMIT(time: the longer the list of rooms, the longer it takes to bring it together with the words)
_FEW_ROOMS, _ROOMS_AS_MARKS = 4, 100
# LIMIT(time: SQLite puts together all texts with all words that begin so, before it gives the first)
_OPEN_ENDS_MOST = 4
# How many are gone through for each one that is wanted: in SQLite with the words, in PostgreSQL of all texts.
_MATCHES_EACH, _TEXTS_EACH = 4, 200
# PostgreSQL first glances at so many, and only goes through more where a tenth of what is wanted was among them.
_GLANCE_EACH, _PROMISING = 16, 10
# Of so many texts it is counted how many are in the rooms. Less than a fourth is a small part.
_SAMPLE, _SMALL_PART = 256, 4
# LIMIT(time: nobody else reads on this connection meanwhile)
_GATHERING_MOST_MS = 2_000


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for, and where."""

    phrases: Sequence[Sequence[str]]
    room_nids: Collection[int]
    keys: Collection[str]  # of body, name, topic
    sender_nids: Collection[int] | None = None  # None: whoever
    shortest: int = 3  # a word of so many letters also stands for longer ones: very short ones begin too many
    are_few: bool = False  # among all texts such ones are few: to go through the newest would be in vain


class Hit(NamedTuple):
    """An event that fits."""

    place: int
    nid: int
    room_nid: int


_HIT = (search_documents.c.place, search_documents.c.event_nid, search_documents.c.room_nid)
_IN_ROOMS = any_of(search_documents.c.room_nid, "room_nids")
_BELOW: BindParameter[Any] = bindparam("below")
_MOST: BindParameter[Any] = bindparam("most")


def _match(*, in_rooms: bool) -> ClauseElement:
    """SQLite: in the order of the index, which gives as many as are asked for and looks at no more."""
    place: Any = literal_column("search_words.rowid")
    fits: Any = literal_column("search_words").op("MATCH")(bindparam("query"))
    found = (
        select(*_HIT)
        .select_from(fts_words.join(search_documents, search_documents.c.place == place))
        .where(and_(fits, place < _BELOW))
        .order_by(place.desc())
        .limit(_MOST)
    )
    return found.where(_IN_ROOMS) if in_rooms else found


def _hits_of(source: Any) -> ClauseElement:
    return (
        select(*_HIT)
        .select_from(source.join(search_documents, search_documents.c.place == source.c.place))
        .where(_IN_ROOMS)
        .order_by(source.c.place.desc())
        .limit(_MOST)
    )


_QUERY = cast(bindparam("query"), TSQUERY)


def _walk(_: str) -> ClauseElement:
    """PostgreSQL: the newest texts one by one. The inner limit keeps its planner from doing it in another way."""
    newest = (
        select(vector_words.c.place, vector_words.c.words)
        .where(vector_words.c.place < _BELOW)
        .order_by(vector_words.c.place.desc())
        .limit(bindparam("looked_at"))
        .subquery("newest")
    )
    fitting = select(newest.c.place).where(newest.c.words.op("@@")(_QUERY)).subquery("fitting")
    return _hits_of(fitting)


def _gather(_: str) -> ClauseElement:
    """PostgreSQL: all that the index has. (It keeps no order, so they are sorted.)"""
    fitting = (
        select(vector_words.c.place)
        .where(and_(vector_words.c.words.op("@@")(_QUERY), vector_words.c.place < _BELOW))
        .order_by(vector_words.c.place.desc())
        .subquery("fitting")
    )
    return _hits_of(fitting)


def _in_sample(_: str) -> ClauseElement:
    sample = (
        select(search_documents.c.room_nid)
        .where(search_documents.c.place < _BELOW)
        .order_by(search_documents.c.place.desc())
        .limit(bindparam("looked_at"))
        .subquery("sample")
    )
    return select(func.count()).select_from(sample).where(any_of(sample.c.room_nid, "room_nids"))


_ANYWHERE = Statement(lambda _: _match(in_rooms=False))
_IN_ORDER = Statement(lambda _: _match(in_rooms=True))
_WALK, _GATHER, _IN_SAMPLE = Statement(_walk), Statement(_gather), Statement(_in_sample)

_ENCRYPTED = statement(
    select(current_state.c.room_nid)
    .select_from(current_state.join(state_keys, state_keys.c.nid == current_state.c.state_key_nid))
    .where(
        and_(
            state_keys.c.type_nid == WELL_KNOWN_TYPES["m.room.encryption"],
            state_keys.c.state_key == "",
            any_of(current_state.c.room_nid, "room_nids"),
        )
    )
)


def find_hits(tx: Tx, search: Search, below: int, most: int) -> list[Hit]:
    """The newest events before a place that fit, newest first; fewer than ``most`` only where there are no more.

    (Or where it would take seconds to find out: many words that are common and never meet, on a very large server.)
    """
    if not search.phrases or not search.room_nids or not search.keys or search.sender_nids == []:
        return []
    found = (
        _find_in_fts(tx, search, below, most)
        if tx.dialect == SQLITE
        else _find_vectors(tx, search, below, most)
    )
    return [Hit(*row) for row in found]


def _find_in_fts(tx: Tx, search: Search, below: int, most: int) -> list[Any]:
    rooms = set(search.room_nids)
    looked_at = _MATCHES_EACH * most
    anywhere = tx.all(_ANYWHERE, query=_fts_query(search, in_rooms=False), below=below, most=looked_at)
    found = [row for row in anywhere if row[2] in rooms]
    if len(found) >= most or len(anywhere) < looked_at:
        return found[:most]
    query = _fts_query(search, in_rooms=len(rooms) <= _ROOMS_AS_MARKS)
    return tx.all(_IN_ORDER, query=query, below=below, room_nids=sorted(rooms), most=most)


def _find_vectors(tx: Tx, search: Search, below: int, most: int) -> list[Any]:
    rooms = sorted(search.room_nids)
    few = len(rooms) <= _FEW_ROOMS
    arguments: dict[str, Any] = {"below": below, "room_nids": rooms, "most": most}
    query = _vector_query(search, in_rooms=few)
    found: list[Any] = []
    if not search.are_few:
        found = tx.all(_WALK, query=query, looked_at=_GLANCE_EACH * most, **arguments)
    if most > len(found) >= most / _PROMISING:
        found = tx.all(_WALK, query=query, looked_at=_TEXTS_EACH * most, **arguments)
    if len(found) == most:
        return found
    if not few and len(rooms) <= _ROOMS_AS_MARKS:
        in_rooms = int(tx.value(_IN_SAMPLE, below=below, room_nids=rooms, looked_at=_SAMPLE))
        if in_rooms * _SMALL_PART < _SAMPLE:
            query = _vector_query(search, in_rooms=True)
    gathered = tx.all_within(_GATHERING_MOST_MS, _GATHER, query=query, **arguments)
    return found if gathered is None else gathered


def find_encrypted(tx: Tx, room_nids: Collection[int]) -> set[int]:
    """Which of some rooms are end to end encrypted."""
    return set(tx.column(_ENCRYPTED, room_nids=list(room_nids)))


def _marks(search: Search, *, in_rooms: bool) -> list[list[str]]:
    """Groups of marks: of each group one must be there."""
    groups = [[f"k{key}" for key in search.keys]]
    if in_rooms:
        groups.append([f"r{nid}" for nid in sorted(search.room_nids)])
    if search.sender_nids is not None:
        groups.append([f"s{nid}" for nid in sorted(search.sender_nids)])
    return groups


def _open_ends(search: Search) -> list[bool]:
    """For each phrase, whether its last word also stands for longer ones: of those with the longest words, some."""
    lengths = [len(phrase[-1]) for phrase in search.phrases]
    longest = sorted(range(len(lengths)), key=lambda place: -lengths[place])[:_OPEN_ENDS_MOST]
    return [length >= search.shortest and place in longest for place, length in enumerate(lengths)]


def _fts_query(search: Search, *, in_rooms: bool) -> str:
    # Everything is quoted, and no word holds a quote: nothing of it is FTS5's language.
    marks = _marks(search, in_rooms=in_rooms)
    parts = ["marks : (" + " OR ".join(f'"{mark}"' for mark in group) + ")" for group in marks]
    for phrase, is_open in zip(search.phrases, _open_ends(search), strict=True):
        parts.append(f'words : "{" ".join(phrase)}"{" *" if is_open else ""}')
    return " AND ".join(parts)


def _vector_query(search: Search, *, in_rooms: bool) -> str:
    marks = _marks(search, in_rooms=in_rooms)
    parts = ["(" + " | ".join(f"'/{mark}'" for mark in group) + ")" for group in marks]
    for phrase, is_open in zip(search.phrases, _open_ends(search), strict=True):
        words = [f"'{word}'" for word in phrase]
        if is_open:
            words[-1] += ":*"
        parts.append("(" + " <-> ".join(words) + ")")
    return " & ".join(parts)
