"""What those in charge look at: reports of events, and the events themselves, whatever room they are of.

Nobody asks here whether the reader is an administrator: that is the endpoint's part (``Auth.ADMIN``). A redacted event
stays redacted for them too: its text is gone for everybody who reads through this server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from federation.event import parse_stored
from federation.ids import EventId
from federation.redaction import redact
from federation.versions import ROOM_VERSIONS
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.store.directory import load_room_facts
from homeserver.store.events import find_row, load_json, load_redactions
from homeserver.store.ids import Interner
from homeserver.store.members import load_user_rooms
from homeserver.store.placement import Membership
from homeserver.store.reports import (
    EventReport,
    ReportsWanted,
    drop_event_report,
    find_event_report,
    load_event_reports,
)
from homeserver.store.work import Worker

_NAMING: Final = ("m.room.name", "m.room.canonical_alias")


@dataclass(frozen=True, slots=True)
class RoomNames:
    """What a room is called; None where it has none."""

    name: str | None = None
    canonical_alias: str | None = None


NAMELESS: Final = RoomNames()


class Evidence:
    """See the module."""

    def __init__(self, database: Database, worker: Worker, interner: Interner) -> None:
        self._database = database
        self._worker = worker
        self._interner = interner

    async def reports(
        self, wanted: ReportsWanted, skip: int, most: int, *, newest_first: bool
    ) -> tuple[list[EventReport], int]:
        """A page of the reports of events, and how many there are in all."""
        return await self._database.read(load_event_reports, wanted, skip, most, newest_first=newest_first)

    async def report(self, report_id: int) -> EventReport | None:
        """One report."""
        return await self._database.read(find_event_report, report_id)

    async def drop_report(self, report_id: int) -> bool:
        """A report was dealt with: whether there was one."""
        return await self._worker.work(drop_event_report, report_id)

    async def room_names(self, room_ids: list[str]) -> dict[str, RoomNames]:
        """What rooms are called, by id; those that are not known here are absent."""
        nids = await self._interner.find_rooms(dict.fromkeys(room_ids))
        return await self._database.read(_load_names, list(nids.values())) if nids else {}

    async def memberships(self, user_id: str) -> dict[str, Membership] | None:
        """What somebody is to which rooms, as far as this server knows; None: never heard of them."""
        user_nid = await self._interner.find_user(user_id)
        if user_nid is None:
            return None
        found = {one.room_nid: one for one in await self._database.read(load_user_rooms, user_nid)}
        names = await self._interner.room_names(list(found))
        return {names[nid]: one.membership for nid, one in found.items()}

    async def event(self, event_id: str) -> dict[str, Any] | None:
        """An event as servers pass it on, with its room's id; None where it is not here."""
        return await self._database.read(_load_event, event_id)


def _load_names(tx: Tx, room_nids: list[int]) -> dict[str, RoomNames]:
    found = load_room_facts(tx, room_nids, _NAMING)
    return {
        facts.room_id: RoomNames(
            _text(facts.contents.get("m.room.name", {}).get("name")),
            _text(facts.contents.get("m.room.canonical_alias", {}).get("alias")),
        )
        for facts in found
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _load_event(tx: Tx, event_id: str) -> dict[str, Any] | None:
    row = find_row(tx, event_id)
    if row is None:
        return None
    (stored,) = load_json(tx, [row.nid])
    event = parse_stored(EventId(event_id), stored.json, ROOM_VERSIONS[stored.version])
    shown = redact(event.json, event.rules) if load_redactions(tx, [row.nid]) else event.json
    return {**shown, "room_id": event.room_id}
