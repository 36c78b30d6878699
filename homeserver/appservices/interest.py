"""What concerns an application service: decided from memory, for each change, as the follower comes to it.

An event concerns it where the room is in its namespaces (by id or alias), where it is sent by one of its users or is a
membership of theirs, and where one of them is joined before or after it. So this keeps who of them is joined where *at the
position that was followed*: the membership index is ahead of a follower.

# spec: application-service-api#registration
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from homeserver.appservices.registry import Appservice
from homeserver.store.changes import Change
from homeserver.store.placement import Membership, Placement, moves_of

_NOBODY: frozenset[int] = frozenset()


class Interest:
    """One application service's. ``user_nids``: every user of its own that was ever named here."""

    def __init__(self, service: Appservice) -> None:
        self.service = service
        self.user_nids: set[int] = set()
        self.user_ids: set[str] = set()
        self._joined: dict[int, set[int]] = {}
        self._by_alias: set[int] = set()
        self._by_id: dict[int, bool] = {}  # rooms whose id was looked at

    def load(self, users: Iterable[tuple[int, str]]) -> None:
        """Users of this server; those that are not the application service's are passed over."""
        for nid, user_id in users:
            self.note_user(nid, user_id)

    def load_rooms(self, joined: dict[int, set[int]]) -> None:
        """Where its users are joined, at the position from which it is followed."""
        self._joined = joined

    def note_user(self, user_nid: int, user_id: str) -> None:
        """A user that may be new."""
        if user_nid not in self.user_nids and self.service.owns_user(user_id):
            self.user_nids.add(user_nid)
            self.user_ids.add(user_id)

    def note_aliases(self, room_nid: int, aliases: Collection[str]) -> None:
        """Every alias that a room has now."""
        if any(self.service.watches_alias(alias) for alias in aliases):
            self._by_alias.add(room_nid)
        else:
            self._by_alias.discard(room_nid)

    def note_room(self, room_nid: int, room_id: str) -> None:
        """A room that may be new."""
        self.is_named(room_nid, room_id)

    # --- questions ---------------------------------------------------------------------------------------

    def is_named(self, room_nid: int, room_id: str) -> bool:
        """Whether a room is in its namespaces."""
        if room_nid in self._by_alias:
            return True
        if not self.service.registration.rooms:
            return False
        known = self._by_id.get(room_nid)
        if known is None:
            known = self._by_id[room_nid] = self.service.watches_room(room_id)
        return known

    def is_known(self, room_nid: int) -> bool:
        """Whether a room that was looked at already is in its namespaces."""
        return room_nid in self._by_alias or self._by_id.get(room_nid, False)

    def is_in(self, room_nid: int) -> bool:
        """Whether what is of the moment in a room concerns it."""
        return room_nid in self._joined or self.is_known(room_nid)

    @property
    def named(self) -> set[int]:
        """Every room that is in its namespaces."""
        return self._by_alias.union(nid for nid, is_named in self._by_id.items() if is_named)

    @property
    def rooms(self) -> Sequence[int]:
        """Every room where it is, or that is in its namespaces."""
        return sorted(self.named.union(self._joined))

    # --- following ---------------------------------------------------------------------------------------

    def event(self, change: Change, placed: Placement) -> bool:
        """Follow an event; whether it concerns the application service."""
        room_nid = change.topic
        named = self.is_named(room_nid, placed.event.room_id)
        concerned = named or room_nid in self._joined or placed.sender_nid in self.user_nids
        if placed.moves:
            concerned = self.moved(change) or concerned
        return concerned

    def moved(self, change: Change) -> bool:
        """Follow how memberships moved; whether one of its users is among them, or is joined after it."""
        own = False
        room_nid = change.topic
        for move in moves_of(change):
            if not move.member_nid:
                continue
            self.note_user(move.member_nid, move.user_id)
            if move.member_nid not in self.user_nids:
                continue
            own = True
            if move.event_nid and move.membership == Membership.JOIN:
                self._joined.setdefault(room_nid, set()).add(move.member_nid)
            elif room_nid in self._joined:
                self._joined[room_nid].discard(move.member_nid)
                if not self._joined[room_nid]:
                    del self._joined[room_nid]
        return own
