"""Puts talk into the tables of a stopped server: more messages than an API takes in the time of a run.

The events are whole: each names the one before it in its room, and its id is its hash. Rooms, memberships and the first
message of each sender in each room were made through the API; what is put in repeats those, with other words. Then the
server's own index of texts is filled by the server's own means: CHAOS's by the function that indexes what was there
before the index was, Synapse's by the statements with which it stores new texts.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

from sqlalchemy import Engine

from federation.hashes import compute_event_id
from federation.versions import ROOM_VERSIONS
from homeserver.db.engine import PostgresEngine, SqliteEngine
from homeserver.db.tx import copied
from homeserver.store.search import index_older
from tests.bench.texts import Said, Talk

_PIECE = 10_000
_ROOM_VERSION = "12"


class Made(NamedTuple):
    """One message as both servers store it."""

    room: int
    sender: int
    event_id: str
    prev_id: str
    depth: int
    ts_ms: int
    body: str
    json: str


@dataclass(frozen=True, slots=True)
class _Model:
    """What of a sender's messages in a room is always the same: pieces of canonical JSON."""

    begin: str
    hashes: str
    end: str
    signed_end: str


class Loader:
    """A database of a stopped server."""

    def __init__(self, engine: Engine) -> None:
        self._connection: Any = engine.raw_connection().driver_connection
        self.is_sqlite = engine.dialect.name == "sqlite"

    def all(self, sql: str, *arguments: Any) -> list[Any]:
        """Every row of the answer to a statement with ``?`` for its parameters."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(sql if self.is_sqlite else sql.replace("?", "%s"), arguments)
            return list(cursor.fetchall()) if cursor.description else []

    def value(self, sql: str, *arguments: Any) -> Any:
        """The only value of it."""
        ((found,),) = self.all(sql, *arguments)
        return found

    def load(self, table: str, columns: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows, as fast as the database takes them."""
        with closing(self._connection.cursor()) as cursor:
            if self.is_sqlite:
                marks = ", ".join("?" * len(rows[0]))
                cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)
            else:
                cursor.copy_expert(f"COPY {table} ({columns}) FROM STDIN", BytesIO(copied(rows)))

    def commit(self) -> None:
        self._connection.commit()

    def size(self) -> int:
        """Bytes on the disk."""
        if self.is_sqlite:
            pages, of_bytes = self.value("PRAGMA page_count"), self.value("PRAGMA page_size")
            return int(pages * of_bytes)
        return int(self.value("SELECT pg_database_size(current_database())"))

    def clean(self) -> None:
        """What PostgreSQL does by itself some minutes after such a change."""
        self.commit()
        if not self.is_sqlite:
            self._connection.autocommit = True
            self.all("VACUUM (ANALYZE)")


class Chains:
    """The newest event of each room, and the messages that come after it.

    ``firsts``: of each room the ids of the messages that are repeated, one of each sender, the newest last.
    """

    def __init__(self, firsts: Sequence[Sequence[str]], load_json: Callable[[str], str]) -> None:
        events = [[json.loads(load_json(event_id)) for event_id in of_room] for of_room in firsts]
        self.newest = [
            (of_room[-1], found[-1]["depth"]) for of_room, found in zip(firsts, events, strict=True)
        ]
        self._models = [[_model(event) for event in found] for found in events]

    def make(self, said: Said) -> Made:
        """The next message of a room. (Nothing in the words has to be escaped in JSON.)"""
        model = self._models[said.room][said.sender]
        prev_id, depth = self.newest[said.room]
        depth += 1
        head = f'"depth":{depth},{model.hashes},"origin_server_ts":{said.ts_ms},"prev_events":["{prev_id}"]'
        redacted = f'{model.begin}"content":{{}},{head},{model.end}'
        digest = base64.urlsafe_b64encode(hashlib.sha256(redacted.encode()).digest())
        event_id = "$" + digest.decode().rstrip("=")
        content = f'"content":{{"body":"{said.body}","msgtype":"m.text"}}'
        text = f"{model.begin}{content},{head},{model.signed_end}"
        if depth % 10_000 == 0 and event_id != compute_event_id(
            json.loads(text), ROOM_VERSIONS[_ROOM_VERSION]
        ):
            raise AssertionError(f"{event_id} is not the hash of {text}")
        self.newest[said.room] = (event_id, depth)
        return Made(said.room, said.sender, event_id, prev_id, depth, said.ts_ms, said.body, text)

    def pieces(self, talk: Talk) -> Iterator[list[Made]]:
        """All of the talk, some thousand messages at a time."""
        made = map(self.make, talk)
        while piece := list(itertools.islice(made, _PIECE)):
            yield piece


def _model(event: Mapping[str, Any]) -> _Model:
    def written(*keys: str) -> str:
        parts = (f'"{key}":{json.dumps(event[key], separators=(",", ":"), sort_keys=True)}' for key in keys)
        return ",".join(parts)

    return _Model(
        "{" + written("auth_events") + ",",
        written("hashes"),
        written("room_id", "sender", "type") + "}",
        written("room_id", "sender", "signatures", "type") + "}",
    )


# --- CHAOS ---------------------------------------------------------------------------------------------------------


def fill_chaos(engine: Engine, talk: Talk, firsts: Sequence[Sequence[str]]) -> None:
    """The tables of ``homeserver/db/schema/rooms.py``, as ``store/commit.py`` fills them."""
    loader = Loader(engine)
    chains = Chains(
        firsts,
        lambda event_id: loader.value(
            "SELECT json FROM event_json JOIN events ON events.nid = event_json.nid WHERE event_id = ?",
            event_id,
        ),
    )
    known = [
        [loader.all("SELECT room_nid, sender_nid FROM events WHERE event_id = ?", one)[0] for one in of_room]
        for of_room in firsts
    ]
    rooms = [of_room[0][0] for of_room in known]
    snapshots = [
        loader.value("SELECT snapshot_nid FROM room_heads WHERE room_nid = ?", room_nid) for room_nid in rooms
    ]
    nid = first = int(loader.value("SELECT next FROM nid_leases"))
    pos = int(loader.value("SELECT pos FROM stream"))
    heads: dict[int, int] = {}
    for piece in chains.pieces(talk):
        numbered = list(enumerate(piece, nid))
        of_events = [
            (
                number,
                *known[one.room][one.sender],
                11,
                one.event_id,
                one.depth,
                one.ts_ms,
                snapshots[one.room],
            )
            for number, one in numbered
        ]
        loader.load(
            "events", "nid, room_nid, sender_nid, type_nid, event_id, depth, ts_ms, state_before", of_events
        )
        loader.load("event_json", "nid, json", [(number, one.json) for number, one in numbered])
        loader.load("edges", "parent_id, child_nid", [(one.prev_id, number) for number, one in numbered])
        placed = [(rooms[one.room], pos + 1 + number - nid, number) for number, one in numbered]
        loader.load("timeline", "room_nid, pos, event_nid", placed)
        nid += len(piece)
        pos += len(piece)
        heads |= {one.room: number for number, one in numbered}
    for room, head in heads.items():
        loader.all(
            "UPDATE room_heads SET version = version + 1, depth = ?, extremities = ? WHERE room_nid = ?",
            chains.newest[room][1],
            f"[{head}]",
            rooms[room],
        )
    loader.all("UPDATE nid_leases SET next = ?", nid + 1)
    loader.all("UPDATE stream SET pos = ?", pos)
    # As if there had been no index yet: down from the newest it looks at all.
    loader.all("UPDATE search_progress SET below = ?", nid if nid > first else 0)
    loader.commit()
    before = loader.size()
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    _index_chaos(engine)
    wall_s, cpu_s, count = time.perf_counter() - started_s, time.process_time() - started_cpu_s, nid - first
    loader.commit()  # it has looked, and sees no more than there was then
    print(
        f"  index: {wall_s / count * 1e6:.0f} µs a message, of the server's processor {cpu_s / count * 1e6:.0f} µs, and"
        f" {(loader.size() - before) / count:.0f} bytes; everything else of a message: {before / count:.0f} bytes",
        file=sys.stderr,
        flush=True,
    )
    loader.clean()


def _index_chaos(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        session = SqliteEngine(str(engine.url.database)).writer()
    else:
        url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        session = PostgresEngine(url).writer()
    while session.run(index_older):
        session.settle()
    session.close()


# --- Synapse -------------------------------------------------------------------------------------------------------


def fill_synapse(engine: Engine, talk: Talk, firsts: Sequence[Sequence[str]]) -> None:
    """What Synapse writes of a message that nobody is notified of."""
    loader = Loader(engine)
    chains = Chains(
        firsts, lambda event_id: loader.value("SELECT json FROM event_json WHERE event_id = ?", event_id)
    )
    rooms = [loader.value("SELECT room_id FROM events WHERE event_id = ?", of_room[0]) for of_room in firsts]
    senders = [
        [loader.value("SELECT sender FROM events WHERE event_id = ?", one) for one in of_room]
        for of_room in firsts
    ]
    groups = [
        loader.value("SELECT state_group FROM event_to_state_groups WHERE event_id = ?", of_room[-1])
        for of_room in firsts
    ]
    ordering = int(loader.value("SELECT max(stream_ordering) FROM events"))
    for piece in chains.pieces(talk):
        numbered = list(enumerate(piece, ordering + 1))
        ordering += len(piece)
        _load_events(loader, numbered, rooms, senders)
        loader.load(
            "event_edges",
            "event_id, prev_event_id, is_state",
            [(one.event_id, one.prev_id, False) for one in piece],
        )
        loader.load(
            "event_to_state_groups",
            "event_id, state_group",
            [(one.event_id, groups[one.room]) for one in piece],
        )
        _load_texts(loader, numbered, rooms)
    for room, (event_id, _) in enumerate(chains.newest):
        loader.all(
            "UPDATE event_forward_extremities SET event_id = ? WHERE room_id = ?", event_id, rooms[room]
        )
    if not loader.is_sqlite:
        loader.all("SELECT setval('events_stream_seq', ?)", ordering)
    loader.all("UPDATE stream_positions SET stream_id = ? WHERE stream_name = 'events'", ordering)
    loader.clean()


def _load_events(
    loader: Loader,
    numbered: Sequence[tuple[int, Made]],
    rooms: Sequence[str],
    senders: Sequence[Sequence[str]],
) -> None:
    columns = (
        "stream_ordering, topological_ordering, depth, event_id, type, room_id, sender, origin_server_ts, received_ts,"
        " processed, outlier, contains_url, instance_name"
    )
    rows = [
        (
            *(number, one.depth, one.depth, one.event_id, "m.room.message", rooms[one.room]),
            *(senders[one.room][one.sender], one.ts_ms, one.ts_ms, True, False, False, "master"),
        )
        for number, one in numbered
    ]
    loader.load("events", columns, rows)
    loader.load(
        "event_json",
        "event_id, room_id, internal_metadata, json, format_version",
        [(one.event_id, rooms[one.room], "{}", one.json, 4) for _, one in numbered],
    )


def _load_texts(loader: Loader, numbered: Sequence[tuple[int, Made]], rooms: Sequence[str]) -> None:
    if loader.is_sqlite:
        texts = [(one.event_id, rooms[one.room], "content.body", one.body) for _, one in numbered]
        loader.load("event_search", "event_id, room_id, key, value", texts)
        return
    loader.all(
        "CREATE TEMPORARY TABLE IF NOT EXISTS said"
        " (event_id TEXT, room_id TEXT, value TEXT, stream_ordering BIGINT, ts BIGINT)"
    )
    loader.all("TRUNCATE said")
    loader.load(
        "said",
        "event_id, room_id, value, stream_ordering, ts",
        [(one.event_id, rooms[one.room], one.body, number, one.ts_ms) for number, one in numbered],
    )
    loader.all(
        "INSERT INTO event_search (event_id, room_id, key, vector, stream_ordering, origin_server_ts)"
        " SELECT event_id, room_id, 'content.body', to_tsvector('english', value), stream_ordering, ts FROM said"
    )


FILL: Mapping[str, Callable[[Engine, Talk, Sequence[Sequence[str]]], None]] = {
    "CHAOS": fill_chaos,
    "Synapse": fill_synapse,
}
