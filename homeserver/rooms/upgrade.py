"""Upgrading a room: its successor is made, then the old one is closed and its names move, in one transaction.

The whole upgrade is one job of the old room's actor: nobody says anything there between the copy and the tombstone.
What fails before the end leaves the old room as it was, and at worst an unknown room that nobody else is in.
spec: client-server-api#room-upgrades
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from federation.builder import Draft
from federation.canonical import encode_checked
from federation.errors import Malformed
from federation.ids import RoomId, UserId
from federation.versions import RoomRules
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError, forbidden, invalid_param, limit_exceeded
from homeserver.rooms.aliases import CANONICAL, may_send_state, without_aliases
from homeserver.rooms.create import Birth, RoomCreator, member_content, parse_creators, rules_for
from homeserver.rooms.presets import TOMBSTONE, StateItem, create_content
from homeserver.rooms.profiles import RoomProfiles
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.succession import Succession
from homeserver.rooms.turn import Turn
from homeserver.rooms.types import Requester
from homeserver.rooms.upgrade_state import (
    COPIED,
    JOIN_RULES,
    POWER_LEVELS,
    PROTECTING,
    SPACE_CHILD,
    closing_levels,
    opening_levels,
    successor_join_rules,
    successor_levels,
)
from homeserver.runtime.shared import Busy, Shared
from homeserver.store.aliases import load_room_aliases
from homeserver.store.profiles import load_names_and_avatars
from homeserver.store.upgrades import load_banned, load_space_children, move_names

_MEMBER = "m.room.member"
# LIMIT(an upgrade holds the old room's actor; these take some seconds)
BANS_MOST = 5_000
CHILDREN_MOST = 2_000
_AT_ONCE = 100
# Who asks again for the same has not seen the answer: a second successor would part the room's names from its tombstone.
ASKED_AGAIN_S = 300.0
# LIMIT(answers that are kept for them)
ANSWERS_KEPT = 1_000


class RoomUpgrades:
    """The upgrade endpoint's work."""

    def __init__(
        self,
        rooms: RoomRegistry,
        creator: RoomCreator,
        succession: Succession,
        whole: Callable[[RoomId], Awaitable[None]],
        profiles: RoomProfiles,
    ) -> None:
        self._rooms = rooms
        self._profiles = profiles
        self._creator = creator
        self._succession = succession
        self._whole = whole  # waits until all members of a room are known: so those who are banned stay so
        self._asked: Shared[tuple[object, ...], RoomId] = Shared(
            rooms.tools.clock, keep_s=ASKED_AGAIN_S, budget=ANSWERS_KEPT
        )

    async def upgrade(
        self, requester: Requester, room_id: RoomId, new_version: str, additional_creators: Any = None
    ) -> RoomId:
        """Replace a room by one of another version; the new room's id, the same for who soon asks for the same again."""
        # spec: client-server-api#post_matrixclientv3roomsroomidupgrade
        rules = rules_for(new_version)
        others = parse_creators(rules, additional_creators)
        key = (room_id, requester.user_nid, new_version, *others)
        try:
            return await self._asked.get(key, partial(self._upgrade, requester, room_id, rules, others))
        except Busy:
            raise limit_exceeded(1_000) from None

    def stop(self) -> None:
        """Wait for no upgrade; whoever does is told so. What a room has begun, it ends or leaves as it was."""
        self._asked.stop()

    async def _upgrade(
        self, requester: Requester, room_id: RoomId, rules: RoomRules, others: Sequence[UserId]
    ) -> RoomId:
        old = await self._rooms.find(room_id)
        await self._whole(room_id)
        # Not by the job: it runs again when the old room's policy server has signed the tombstone, which must be the same then.
        new_id = None if rules.room_id_is_create_hash else self._creator.new_room_id()
        made: list[Birth] = []
        since = self._profiles.position

        async def job(turn: Turn) -> None:
            if not await may_send_state(turn, requester.user_id, TOMBSTONE):
                raise forbidden("You may not upgrade this room")
            upgrade = _Upgrade(self._creator, turn, requester, room_id, rules, others, new_id)
            if not made:
                # (A second try, after a conflict with another process, must not make a second room.)
                made.append(await upgrade.make_successor())
            await upgrade.close(made[0])

        await old.run(job)
        birth = made[0]
        await self._profiles.catch_up(birth.room_id, requester, since)
        await self._succession.follow(requester.user_nid, room_id, birth.actor.room_nid)
        return birth.room_id


class _Upgrade:
    """One upgrade under way, within the turn of the old room."""

    def __init__(
        self,
        creator: RoomCreator,
        turn: Turn,
        requester: Requester,
        room_id: RoomId,
        rules: RoomRules,
        others: Sequence[UserId],
        new_id: RoomId | None,
    ) -> None:
        self._creator = creator
        self._turn = turn
        self._requester = requester
        self._user_id = UserId(requester.user_id)
        self._room_id = room_id
        self._rules = rules
        self._others = others
        self._new_id = new_id  # None: it is the hash of the create event
        self._closed = False

    # --- the new room --------------------------------------------------------------------------------

    async def make_successor(self) -> Birth:
        """Make the new room and everything in it."""
        turn, rules = self._turn, self._rules
        database = self._creator.database
        nid = turn.head.room_nid
        await self._check_creators()
        profiles, aliases = await database.read(_load_for, self._requester.user_nid, nid)
        banned = await database.read(load_banned, nid, BANS_MOST)
        birth = await self._conceive()
        old_levels = await turn.state(POWER_LEVELS)
        creators = [self._user_id, *self._others]
        final = successor_levels(old_levels, turn.head.rules, rules, self._user_id, creators)
        opening = opening_levels(final, rules, self._user_id, bans=bool(banned))
        state = [
            StateItem(_MEMBER, self._user_id, member_content("join", profiles)),
            StateItem(POWER_LEVELS, "", opening),
            *await self._copied_state(aliases),
        ]
        await self._creator.bear(birth, state)
        children = await database.read(load_space_children, nid, CHILDREN_MOST)
        await self._copy(birth, SPACE_CHILD, children)
        await self._copy(birth, _MEMBER, banned)
        if opening != final:
            await self._place(birth, [StateItem(POWER_LEVELS, "", final)])
        return birth

    async def _check_creators(self) -> None:
        """Nobody can ban a creator: so the new room could not keep out who is banned from the old one."""
        keys = [(_MEMBER, user_id) for user_id in self._others]
        await self._turn.load(keys)
        for key in keys:
            member = self._turn.lookup(*key)
            if member is not None and member.content.get("membership") == "ban":
                raise invalid_param(
                    f"{key[1]} is banned from the room, and cannot be a creator of the new one"
                )

    async def _conceive(self) -> Birth:
        turn, rules = self._turn, self._rules
        create = await turn.state("m.room.create")
        old = create.content if create is not None else {}
        wanted: dict[str, Any] = {key: old[key] for key in ("type", "m.federate") if key in old}
        if self._new_id is not None:
            # The id is known before the room: so its predecessor can name the tombstone, which names it.
            await self._bury(self._new_id)
        last_id = turn.head.extremities[-1].reference.event_id
        wanted["predecessor"] = {"room_id": self._room_id, "event_id": last_id}
        content = create_content(rules, self._user_id, wanted, self._others)
        return await self._creator.conceive(rules, self._user_id, content, self._new_id)

    async def _copied_state(self, aliases: Sequence[str]) -> list[StateItem]:
        turn, rules = self._turn, self._rules
        shown = await turn.contents([(event_type, "") for event_type in (*COPIED, CANONICAL)])
        items: list[StateItem] = []
        for event_type in COPIED:
            event = turn.lookup(event_type, "")
            if event is None:
                continue
            content = event.content if event_type in PROTECTING else shown[(event_type, "")]
            if not content and event.content:
                continue  # it was redacted
            if event_type == JOIN_RULES:
                content = successor_join_rules(content, rules)
            if _fits(content, rules):
                items.append(StateItem(event_type, "", dict(content)))
        content = _own_aliases(shown.get((CANONICAL, ""), {}), aliases)
        if content:
            items.append(StateItem(CANONICAL, "", content))
        return items

    async def _copy(self, birth: Birth, event_type: str, state_keys: Sequence[str]) -> None:
        """Copy some state, each with a time of its own: it decides the order of a space's children."""
        first_ms = self._turn.tools.clock.now_ms() - len(state_keys)
        for start in range(0, len(state_keys), _AT_ONCE):
            keys = state_keys[start : start + _AT_ONCE]
            shown = await self._turn.contents([(event_type, key) for key in keys])
            items = [
                StateItem(event_type, key, content)
                for (_, key), said in shown.items()
                if (content := _transferable(event_type, said)) and _fits(content, self._rules)
            ]
            await self._place(birth, items, first_ms + start)

    async def _place(self, birth: Birth, items: Sequence[StateItem], first_ms: int | None = None) -> None:
        """Put state into the new room. ``first_ms``: the time of the first, each later by one than that before it; None: now."""

        async def job(turn: Turn) -> None:
            for number, item in enumerate(items):
                said_ms = None if first_ms is None else first_ms + number
                await turn.place(
                    Draft(
                        birth.room_id,
                        item.type,
                        self._user_id,
                        item.content,
                        item.state_key,
                        origin_server_ts=said_ms,
                    )
                )

        await birth.actor.run(job)

    # --- the old room --------------------------------------------------------------------------------

    async def close(self, birth: Birth) -> None:
        """Put up the tombstone, let the names go, and keep people from going on talking."""
        turn = self._turn
        if not self._closed:
            await self._bury(birth.room_id)
        canonical = await turn.content(CANONICAL)
        if canonical is not None:
            aliases = await self._creator.database.read(load_room_aliases, turn.head.room_nid)
            kept = without_aliases(canonical, aliases)
            if kept is not None:
                await self._try_state(CANONICAL, kept)
        levels = await turn.state(POWER_LEVELS)
        if levels is not None:
            content = closing_levels(levels.content, turn.head.rules)
            if content != levels.content:
                await self._try_state(POWER_LEVELS, content)
        turn.extra.append(partial(move_names, old_nid=turn.head.room_nid, new_nid=birth.actor.room_nid))

    async def _bury(self, replacement_id: RoomId) -> None:
        content = {"body": "This room has been replaced", "replacement_room": replacement_id}
        await self._turn.place(Draft(self._room_id, TOMBSTONE, self._user_id, content, ""))
        self._closed = True

    async def _try_state(self, event_type: str, content: Mapping[str, Any]) -> None:
        """Where the upgrader may not, the old room stays as it is in this respect."""
        try:
            await self._turn.place(Draft(self._room_id, event_type, self._user_id, dict(content), ""))
        except MatrixError as error:
            if error.status != 403:
                raise


def _load_for(tx: Tx, user_nid: int, room_nid: int) -> tuple[dict[str, Any], list[str]]:
    return load_names_and_avatars(tx, [user_nid]).get(user_nid, {}), load_room_aliases(tx, room_nid)


def _fits(content: Mapping[str, Any], rules: RoomRules) -> bool:
    """Whether a newer version's stricter JSON allows what the old room has."""
    try:
        encode_checked(dict(content), strict=rules.strict_canonical_json)
    except Malformed:
        return False
    return True


def _transferable(event_type: str, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """A ban without what belonged to the member; a child that was not removed from its space; else None."""
    if event_type == _MEMBER:
        if content.get("membership") != "ban":
            return None
        reason = content.get("reason")
        return member_content("ban", {}, reason=reason if isinstance(reason, str) else None)
    return dict(content) if content.get("via") else None


def _own_aliases(content: Mapping[str, Any], aliases: Sequence[str]) -> dict[str, Any]:
    """Of a canonical alias event, the aliases that move to the new room."""
    others = content.get("alt_aliases")
    result: dict[str, Any] = {}
    if content.get("alias") in aliases:
        result["alias"] = content["alias"]
    kept = [alias for alias in others if alias in aliases] if isinstance(others, list) else []
    return {**result, "alt_aliases": kept} if kept else result
