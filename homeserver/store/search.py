"""The index of texts: which messages, names and topics hold which words.

Words are made here and not by the databases: what one finds, the other finds. They are what Unicode calls letters, digits
and marks, folded (``Café`` is ``cafe``); each character of a script without spaces is a word, and a run of them a phrase.

Beside its words a text has marks: its room, its sender, which sort it is. So that a search in some rooms meets only them
(``store/search_hits.py``).

# spec: client-server-api#server-side-search
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import bindparam, column, delete, func, insert, select, table
from sqlalchemy.sql import ClauseElement

from homeserver.db.schema.rooms import events
from homeserver.db.schema.search import (
    fts_words,
    search_documents,
    search_progress,
    search_queue,
    vector_words,
)
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import SQLITE, Statement, any_of, rows, statement
from homeserver.db.tx import Tx
from homeserver.store.events import load_json, load_redactions

# LIMIT(PostgreSQL: a word has at most 2,046 bytes): longer ones are cut, here and in what is searched for.
_WORD_MOST = 64
# LIMIT(time: each word is a walk through an index)
WORDS_MOST = 20
# Written at a time, while whoever sends waits: some milliseconds.
_PIECE = 256
_OF_PEOPLE = "\u01c3"  # a letter to both databases, in nobody's alphabet but those of click languages
_TYPES = {
    WELL_KNOWN_TYPES["m.room.message"]: "body",
    WELL_KNOWN_TYPES["m.room.name"]: "name",
    WELL_KNOWN_TYPES["m.room.topic"]: "topic",
    # For the user directory: whoever searches messages does not ask for these.
    WELL_KNOWN_TYPES["m.room.member"]: "member",
}
_MEMBER = WELL_KNOWN_TYPES["m.room.member"]
_ASCII_WORD = re.compile(r"[0-9a-z]+")
# Accents, and what chooses between the picture of a heart and its sign.
_ACCENTS = re.compile(r"[\u0300-\u036f\ufe00-\ufe0f]+")
# Latin, Greek, Cyrillic and Armenian letters, punctuation, symbols, pictures: no marks but those accents, all with spaces.
_PLAIN = re.compile(r"[\0-\u0482\u048a-\u058f\u1e00-\u20cf\u2100-\u2bff\U0001f000-\U0001faff]*")
_PLAIN_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_WORD_PARTS = frozenset(("L", "N", "M"))
_LATEST_MS = 2**42 - 1


class Document(NamedTuple):
    """The text of an event."""

    place: int
    nid: int
    room_nid: int
    marks: str
    words: list[str]


# --- words ---------------------------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """The words of a text, in order."""
    if text.isascii():
        return [word[:_WORD_MOST] for word in _ASCII_WORD.findall(text.lower())]
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    folded = _ACCENTS.sub("", folded)
    if _PLAIN.fullmatch(folded):
        # Nearly every text, and fifteen times as fast as what follows.
        return [word[:_WORD_MOST] for word in _PLAIN_WORD.findall(folded)]
    words: list[str] = []
    run: list[str] = []
    for character in folded:
        if unicodedata.category(character)[0] not in _WORD_PARTS:
            _end_run(words, run)
        elif _UNSPACED.match(character):
            _end_run(words, run)
            words.append(character)
        else:
            run.append(character)
    _end_run(words, run)
    return words


def _end_run(words: list[str], run: list[str]) -> None:
    if run:
        words.append("".join(run[:_WORD_MOST]))
        run.clear()


def names_of(phrases: Sequence[Sequence[str]]) -> list[list[str]]:
    """Words of people, as the index has them: apart from those of messages, of which too many begin with any letter."""
    return [[_OF_PEOPLE + word for word in phrase] for phrase in phrases]


def phrases_of(term: str) -> list[list[str]]:
    """What is looked for: each must be there. At most ``WORDS_MOST`` words of it count."""
    found: list[list[str]] = []
    count = 0
    for part in term.split():
        words = words_of(part)[: WORDS_MOST - count]
        count += len(words)
        if words and words not in found:
            found.append(words)
    return found


def fits(text: str, phrases: Sequence[Sequence[str]]) -> bool:
    """Whether a text has all phrases, as the index finds them: the last word of each also stands for longer ones."""
    words = words_of(text)
    return all(any(_begins(words, start, phrase) for start in range(len(words))) for phrase in phrases)


def _begins(words: Sequence[str], start: int, phrase: Sequence[str]) -> bool:
    end = start + len(phrase)
    return (
        end <= len(words) and words[end - 1].startswith(phrase[-1]) and words[start : end - 1] == phrase[:-1]
    )


# --- what is indexed -----------------------------------------------------------------------------------------------


def text_of(json: bytes, key: str) -> str:
    """What of an event is searched; "" where that is nothing."""
    event = msgspec.json.decode(json)
    content = event.get("content")
    if not isinstance(content, dict):
        return ""
    if key == "member":
        name = content.get("displayname")
        named = isinstance(name, str) and content.get("membership") == "join"
        return f"{name}\n{event['state_key']}" if named else str(event["state_key"])
    return text_in(content, key)


def text_in(content: dict[str, Any], key: str) -> str:
    """What of the content of a message, a name or a topic is searched."""
    texts = [content.get(key)]
    if key == "topic":
        texts += _plain_topics(content.get("m.topic"))
    return "\n".join(dict.fromkeys(text for text in texts if isinstance(text, str)))


def _plain_topics(topic: Any) -> list[Any]:
    # spec: client-server-api#mroomtopic (a representation without a type is plain text)
    parts = topic.get("m.text") if isinstance(topic, dict) else None
    if not isinstance(parts, list):
        return []
    plain = [
        one for one in parts if isinstance(one, dict) and one.get("mimetype", "text/plain") == "text/plain"
    ]
    return [one.get("body") for one in plain]


_ROWS = statement(
    select(events.c.nid, events.c.room_nid, events.c.type_nid, events.c.sender_nid, events.c.ts_ms).where(
        any_of(events.c.nid, "nids")
    )
)
_KNOWN = statement(
    select(search_documents.c.event_nid, search_documents.c.place).where(
        any_of(search_documents.c.event_nid, "nids")
    )
)
_INSERT = rows(search_documents, "event_nid", "place", "room_nid", ignore=True)
_DELETE = statement(delete(search_documents).where(any_of(search_documents.c.event_nid, "nids")))
_INSERT_FTS = rows(fts_words, "rowid", "marks", "words")
_INSERT_VECTORS = rows(vector_words, "place", "words", ignore=True)
_DELETE_VECTORS = statement(delete(vector_words).where(any_of(vector_words.c.place, "places")))
_NIDS_OF_IDS = statement(select(events.c.nid).where(any_of(events.c.event_id, "ids")))
_INSERT_QUEUE = rows(search_queue, "event_nid", ignore=True)
_QUEUE = statement(
    select(search_queue.c.event_nid).order_by(search_queue.c.event_nid).limit(bindparam("most"))
)
_END_QUEUE = statement(delete(search_queue).where(any_of(search_queue.c.event_nid, "nids")))
_PROGRESS = statement(select(search_progress.c.below).where(search_progress.c.id == 1))
_SET_PROGRESS = rows(search_progress, "id", "below", keys=("id",), update=("below",))
_NEWEST_NID = statement(select(func.max(events.c.nid)))
_BELOW = statement(
    select(events.c.nid, events.c.type_nid, events.c.state_before)
    .where(events.c.nid < bindparam("below"))
    .order_by(events.c.nid.desc())
    .limit(bindparam("most"))
)


def _forget_fts(_: str) -> ClauseElement:
    # FTS5's command: a row whose first column, named as the table, says what to do.
    target = table("search_words", *map(column, ("search_words", "rowid", "marks", "words")))
    return insert(target).values(
        search_words="delete",
        rowid=bindparam("place"),
        marks=bindparam("old_marks"),
        words=bindparam("old_words"),
    )


_FORGET_FTS = Statement(_forget_fts)


def searched_type(type_nid: int) -> bool:
    """Whether events of a type are indexed."""
    return type_nid in _TYPES


def queue_for_search(tx: Tx, nids: Collection[int], redacted_ids: Collection[str]) -> None:
    """Events that came as history, and those that were redacted by such: the index is to look at them."""
    if redacted_ids:
        nids = [*nids, *tx.column(_NIDS_OF_IDS, ids=list(redacted_ids))]
    tx.insert(_INSERT_QUEUE, [(nid,) for nid in dict.fromkeys(nids)])


def find_events(tx: Tx, event_ids: Collection[str]) -> list[int]:
    """Numbers of events by their ids; unknown ones are absent."""
    return tx.column(_NIDS_OF_IDS, ids=list(event_ids))


def refresh(tx: Tx, nids: Collection[int]) -> None:
    """Bring the index up to date with some events: in it, or not in it where they are redacted. Idempotent."""
    if not nids:
        return
    redacted = load_redactions(tx, list(nids))
    known: dict[int, int] = dict(tx.all(_KNOWN, nids=list(nids)))
    wanted = [nid for nid in nids if (nid in redacted) == (nid in known)]
    documents = _load_documents(tx, wanted)
    new = [one for one in documents if one.nid not in redacted and one.words]
    _forget(tx, [one for one in documents if one.nid in redacted], known)
    tx.insert(_INSERT, [(one.nid, one.place, one.room_nid) for one in new])
    if tx.dialect == SQLITE:
        # Two events of one place: the second cannot be found. It takes the same millisecond and a million events between.
        kept: dict[int, int] = dict(tx.all(_KNOWN, nids=[one.nid for one in new]))
        new = [one for one in new if one.nid in kept]
        tx.insert(_INSERT_FTS, [(one.place, one.marks, " ".join(one.words)) for one in new])
    else:
        tx.insert(_INSERT_VECTORS, [(one.place, _vector(one)) for one in new])


def _forget(tx: Tx, documents: Sequence[Document], known: dict[int, int]) -> None:
    if not documents:
        return
    if tx.dialect == SQLITE:
        for one in documents:
            tx.run(_FORGET_FTS, place=known[one.nid], old_marks=one.marks, old_words=" ".join(one.words))
    else:
        tx.run(_DELETE_VECTORS, places=[known[one.nid] for one in documents])
    tx.run(_DELETE, nids=[one.nid for one in documents])


def _load_documents(tx: Tx, nids: Sequence[int]) -> list[Document]:
    found = [row for row in tx.all(_ROWS, nids=list(nids)) if row[2] in _TYPES] if nids else []
    texts = {one.nid: one.json for one in load_json(tx, [row[0] for row in found])} if found else {}
    documents: list[Document] = []
    for nid, room_nid, type_nid, sender_nid, ts_ms in found:
        if nid in texts:
            place = (min(max(ts_ms, 0), _LATEST_MS) << 20) | (nid & 0xFFFFF)
            marks = f"r{room_nid} s{sender_nid} k{_TYPES[type_nid]}"
            words = words_of(text_of(texts[nid], _TYPES[type_nid]))
            if type_nid == _MEMBER:
                (words,) = names_of([words])
            documents.append(Document(place, nid, room_nid, marks, words))
    return documents


def _vector(document: Document) -> str:
    """A tsvector's text form. Words hold nothing that would have to be escaped, and no word begins with a slash."""
    places: dict[str, list[str]] = {}
    for number, word in enumerate(document.words, 1):
        places.setdefault(word, []).append(str(min(number, 16_383)))
    marks = [f"'/{mark}'" for mark in document.marks.split()]
    return " ".join([*marks, *(f"'{word}':{','.join(at[:255])}" for word, at in places.items())])


def has_queue(tx: Tx) -> bool:
    """Whether anything is queued."""
    return bool(tx.column(_QUEUE, most=1))


def drain_queue(tx: Tx, most: int = _PIECE) -> int:
    """Look at some of what is queued; how many they were."""
    nids = tx.column(_QUEUE, most=most)
    if nids:
        refresh(tx, nids)
        tx.run(_END_QUEUE, nids=nids)
    return len(nids)


def index_older(tx: Tx, most: int = _PIECE) -> bool:
    """Index some of what was said before there was an index, the newest first; whether there may be more."""
    below = tx.value(_PROGRESS)
    if below is None:
        below = int(tx.value(_NEWEST_NID) or 0) + 1
    found = tx.all(_BELOW, below=below, most=most) if below else []
    placed = [nid for nid, type_nid, state in found if state is not None or type_nid == _MEMBER]
    refresh(tx, placed)
    more = len(found) == most
    tx.insert(_SET_PROGRESS, [(1, found[-1][0] if more else 0)])
    return more
