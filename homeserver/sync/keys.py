"""The numbers of the state keys that sync looks at."""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.store.ids import Interner, StateKey
from homeserver.stream.index import MembershipIndex
from homeserver.sync.timelines import Keys
from homeserver.sync.types import Requester

_NAMING: tuple[StateKey, ...] = (
    ("m.room.history_visibility", ""),
    ("m.room.name", ""),
    ("m.room.canonical_alias", ""),
)


class KeyNumbers:
    """Remembers them, until the interner gives up a number; one that no room ever used is asked for again."""

    def __init__(self, interner: Interner, index: MembershipIndex) -> None:
        self._interner = interner
        self._index = index
        self._keys: dict[StateKey, int] = {}
        self._asked = False
        self._given_way = interner.given_way

    async def prepare(self, requester: Requester) -> int:
        """Before an answer is made: have them at hand. The number of the requester's own membership, or 0."""
        self._forget_given_up()
        own = 0
        # Who never was in a room has none, which would be looked for again at each sync. See `own`.
        if self._index.rooms_of(requester.user_nid):
            key = ("m.room.member", requester.user_id)
            own = self._interner.known_key(key) or await self._interner.find_key(key) or 0
        if not self._asked:
            await self.ask(_NAMING)
            self._asked = True
        return own

    def own(self, requester: Requester, prepared: int) -> int:
        """At the moment of an answer: what ``prepare`` found, or the number that a first join has bound meanwhile."""
        return prepared or self._interner.known_key(("m.room.member", requester.user_id)) or 0

    async def ask(self, keys: Sequence[StateKey]) -> list[int]:
        """The numbers of state keys; 0 for one that no room ever used."""
        self._forget_given_up()
        for key in keys:
            if key not in self._keys:
                found = await self._interner.find_key(key)
                if found is not None:
                    self._keys[key] = found
        return [self._keys.get(key, 0) for key in keys]

    async def ask_visibility(self) -> None:
        """Another process may have used it for the first time: this one decides who may see what."""
        await self.ask(_NAMING[:1])

    def known(self, own: int) -> Keys:
        """Those that are known now."""
        self._forget_given_up()
        for key in _NAMING:
            if key not in self._keys:
                known = self._interner.known_key(key)
                if known is not None:
                    self._keys[key] = known
        return Keys(own, *(self._keys.get(key, 0) for key in _NAMING))

    def _forget_given_up(self) -> None:
        """Another process has bound a name first: its number counts, and ours, which may be among these, is nobody's."""
        if self._given_way != self._interner.given_way:
            self._given_way = self._interner.given_way
            self._keys.clear()
            self._asked = False
