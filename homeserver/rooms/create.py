"""Making rooms: every event, the alias and the directory entry in one bundle, created whole or not at all.

spec: client-server-api#post_matrixclientv3createroom
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from federation.builder import Draft, build
from federation.event import Event
from federation.ids import RoomAlias, RoomId, UserId, parse_room_alias, parse_user_id
from federation.versions import ROOM_VERSIONS, RoomRules
from homeserver.db.threads import Database
from homeserver.db.tx import Tx, WriteTx
from homeserver.http.errors import MatrixError, bad_json
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.first_invites import Chain, FirstInvites
from homeserver.rooms.invites import InviteGate
from homeserver.rooms.presets import (
    Preset,
    StateItem,
    create_content,
    merge_state,
    power_levels,
    preset_state,
    topic_content,
)
from homeserver.rooms.profiles import RoomProfiles
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.send import POWER_LEVELS, wrong_levels
from homeserver.rooms.turn import Turn
from homeserver.rooms.types import Requester
from homeserver.store.aliases import AliasTakenError, find_alias, insert_alias
from homeserver.store.directory import set_published
from homeserver.store.profiles import load_names_and_avatars

_MEMBER = "m.room.member"
# LIMIT(a create event must fit into 64 KiB, and each creator is looked up for each event in the room)
CREATORS_MOST = 500
Unit = Callable[[WriteTx], Any]


class Finish(Protocol):
    """What is stored with a new room, or not at all."""

    def __call__(self, tx: WriteTx, *, room_id: RoomId) -> object: ...


@dataclass(frozen=True, slots=True)
class NewRoom:
    """What a client asks for; every value checked for its type, ids parsed."""

    published: bool = False
    alias_localpart: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: Sequence[UserId] = ()
    version: str | None = None
    """None: the configured default."""
    creation_content: Mapping[str, Any] = field(default_factory=dict)
    initial_state: Sequence[StateItem] = ()
    preset: Preset | None = None
    is_direct: bool = False
    power_override: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Birth:
    """A room that has an id and a create event, and is not stored yet."""

    actor: RoomActor
    room_id: RoomId
    create: Event
    json: bytes


def rules_for(version: str) -> RoomRules:
    """The rules of a room version that a client names."""
    rules = ROOM_VERSIONS.get(version)
    if rules is None:
        raise MatrixError(400, "M_UNSUPPORTED_ROOM_VERSION", "This server does not support that room version")
    return rules


def parse_creators(rules: RoomRules, value: Any) -> list[UserId]:
    """The user ids of ``additional_creators``; versions without them do not look at it."""
    # spec: client-server-api#mroomcreate
    if not rules.privileged_creators or value is None:
        return []
    if not isinstance(value, list) or len(value) > CREATORS_MOST:
        raise bad_json(f"additional_creators must be a list of at most {CREATORS_MOST} user ids")
    return [parse_user_id(user_id) for user_id in value]


def member_content(membership: str, profile: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    """The content of a member event, with what the profile shows in rooms; None values are left out."""
    content: dict[str, Any] = {"membership": membership}
    content.update((key, value) for key, value in (*profile.items(), *others.items()) if value is not None)
    return content


class RoomCreator:
    """Makes rooms, for clients and for upgrades."""

    def __init__(
        self,
        server_name: str,
        default_version: Callable[[], str],
        rooms: RoomRegistry,
        invites: InviteGate,
        profiles: RoomProfiles,
        first_invites: FirstInvites,
    ) -> None:
        self._server_name = server_name
        self._default_version = default_version
        self._rooms = rooms
        self._tools = rooms.tools
        self._invites = invites
        self._profiles = profiles
        self._first_invites = first_invites
        self._last: tuple[str, int] = ("", 0)  # who made the newest room, and its time

    @property
    def database(self) -> Database:
        """What the rooms are stored in."""
        return self._tools.database

    async def create(
        self,
        requester: Requester,
        wanted: NewRoom,
        finish: Finish | None = None,
        more: Callable[[RoomId], Sequence[Chain]] | None = None,
        admit: Callable[[int], None] | None = None,
    ) -> RoomId:
        """Make a room; its id when everything is stored.

        ``finish`` is stored with it, and ``more`` invites to it. ``admit`` is told how many it invites, once nothing else
        refuses it, and may do so.
        """
        rules = rules_for(self._default_version() if wanted.version is None else wanted.version)
        alias = self.local_alias(wanted.alias_localpart) if wanted.alias_localpart is not None else None
        creator_id = UserId(requester.user_id)
        invited = [user_id for user_id in dict.fromkeys(wanted.invite) if user_id != creator_id]
        by_state = self._invited_by_state(wanted.initial_state)
        await self._invites.check(creator_id, [*invited, *by_state])
        nids = await self._tools.interner.find_users(invited)
        nids[creator_id] = requester.user_nid
        since = self._profiles.position
        profiles, alias_taken = await self._tools.database.read(_load_for, list(nids.values()), alias)
        if alias_taken:
            raise _alias_in_use()
        preset = wanted.preset or ("public_chat" if wanted.published else "private_chat")
        trusted = invited if preset == "trusted_private_chat" else []
        creators = parse_creators(rules, wanted.creation_content.get("additional_creators"))
        content = create_content(rules, creator_id, wanted.creation_content, [*creators, *trusted])
        levels = power_levels(rules, creator_id, preset, invited, wanted.power_override)
        if admit is not None:
            admit(len(set(wanted.invite)) + len(by_state))
        birth = await self.conceive(rules, creator_id, content)
        by_id = {user_id: profiles.get(nid, {}) for user_id, nid in nids.items()}
        state = [
            StateItem(_MEMBER, creator_id, member_content("join", by_id[creator_id])),
            StateItem(POWER_LEVELS, "", levels),
            *([StateItem("m.room.canonical_alias", "", {"alias": alias})] if alias is not None else []),
            *merge_state(preset_state(preset), wanted.initial_state, _named_state(wanted)),
        ]
        is_direct = True if wanted.is_direct else None
        for user_id in filter(self._invites.is_local, invited):
            profile = by_id.get(user_id, {})
            state.append(StateItem(_MEMBER, user_id, member_content("invite", profile, is_direct=is_direct)))
        extra: list[Unit] = []
        if alias is not None:
            extra.append(
                partial(
                    _write_alias, alias=alias, room_nid=birth.actor.room_nid, creator_nid=requester.user_nid
                )
            )
        if wanted.published:
            extra.append(partial(_write_published, room_nid=birth.actor.room_nid))
        if finish is not None:
            extra.append(partial(finish, room_id=birth.room_id))
        try:
            await self.bear(birth, state, extra)
        except AliasTakenError:
            raise _alias_in_use() from None
        await self._profiles.catch_up(birth.room_id, requester, since)
        content = member_content("invite", {}, is_direct=is_direct)
        drafts = [
            Draft(birth.room_id, _MEMBER, creator_id, dict(content), user_id)
            for user_id in invited
            if not self._invites.is_local(user_id)
        ]
        await self._first_invites.send(birth.actor, drafts, () if more is None else more(birth.room_id))
        return birth.room_id

    def _invited_by_state(self, items: Sequence[StateItem]) -> list[UserId]:
        """Whom the initial state invites: users of this server, as others are asked by their servers alone."""
        invited: list[UserId] = []
        for item in items:
            if item.type == _MEMBER and item.content.get("membership") == "invite":
                user_id = parse_user_id(item.state_key)
                if not self._invites.is_local(user_id):
                    raise MatrixError(
                        400, "M_INVALID_ROOM_STATE", "Users of other servers are invited by name: see invite"
                    )
                invited.append(user_id)
        return invited

    def local_alias(self, localpart: str) -> RoomAlias:
        """The alias with this localpart here; refuses (400) what cannot be one."""
        if ":" in localpart:
            raise MatrixError(400, "M_INVALID_PARAM", "room_alias_name is the part before the colon alone")
        return parse_room_alias(f"#{localpart}:{self._server_name}")

    def new_room_id(self) -> RoomId:
        """A fresh id, for versions whose room ids are no hashes."""
        return RoomId(f"!{self._tools.entropy.id(18)}:{self._server_name}")

    async def conceive(
        self, rules: RoomRules, creator_id: UserId, content: dict[str, Any], room_id: RoomId | None = None
    ) -> Birth:
        """Choose the room's id (unless it is given) and build the create event."""
        tools = self._tools
        now_ms = self._moment(creator_id)
        if room_id is None and not rules.room_id_is_create_hash:
            room_id = self.new_room_id()
        while True:
            draft = Draft(room_id, "m.room.create", creator_id, content, "", origin_server_ts=now_ms)
            create, json = build(
                draft,
                prev_events=[],
                auth_events=[],
                depth=1,
                rules=rules,
                signer=tools.signer,
                now_ms=now_ms,
                local_id="" if rules.event_ids_are_hashes else tools.entropy.token(24),
            )
            # The same room by the same user has a hash of its own only if it has a time of its own.
            if not rules.room_id_is_create_hash or await tools.interner.find_room(create.room_id) is None:
                break
            now_ms += 1
        self._last = (creator_id, now_ms)
        actor = self._rooms.start(create.room_id, rules.version)
        return Birth(actor, create.room_id, create, json)

    def _moment(self, creator_id: UserId) -> int:
        """The time of a create event: now, but later than that of the same user's room just before."""
        last_id, last_ms = self._last
        now_ms = self._tools.clock.now_ms()
        return max(now_ms, last_ms + 1) if last_id == creator_id else now_ms

    async def bear(self, birth: Birth, state: Sequence[StateItem], extra: Sequence[Unit] = ()) -> None:
        """Place the create event and the state after it, and store all of it, with the writes of ``extra``."""
        sender = birth.create.sender

        async def job(turn: Turn) -> None:
            try:
                await turn.adopt(birth.create, birth.json)
                for item in state:
                    if item.type == POWER_LEVELS and (problem := wrong_levels(item.content)) is not None:
                        raise _invalid_state(problem)
                    await turn.place(Draft(birth.room_id, item.type, sender, item.content, item.state_key))
            except MatrixError as error:
                raise _as_invalid_state(error) from error
            turn.extra.extend(extra)

        await birth.actor.run(job)


def _named_state(wanted: NewRoom) -> list[StateItem]:
    named: list[StateItem] = []
    if wanted.name is not None:
        named.append(StateItem("m.room.name", "", {"name": wanted.name}))
    if wanted.topic is not None:
        named.append(StateItem("m.room.topic", "", topic_content(wanted.topic)))
    return named


def _as_invalid_state(error: MatrixError) -> MatrixError:
    """What the room's own rules refuse is the request's fault here, and not the requester's lack of rights."""
    if error.status != 403:
        return error
    return _invalid_state(error.error)


def _invalid_state(problem: str) -> MatrixError:
    return MatrixError(400, "M_INVALID_ROOM_STATE", f"The room's initial state is not valid: {problem}")


def _alias_in_use() -> MatrixError:
    return MatrixError(400, "M_ROOM_IN_USE", "The room alias is already taken")


def _load_for(tx: Tx, user_nids: list[int], alias: str | None) -> tuple[dict[int, dict[str, Any]], bool]:
    taken = alias is not None and find_alias(tx, alias) is not None
    return load_names_and_avatars(tx, user_nids), taken


def _write_alias(tx: WriteTx, *, alias: str, room_nid: int, creator_nid: int) -> None:
    insert_alias(tx, alias, room_nid, creator_nid)


def _write_published(tx: WriteTx, *, room_nid: int) -> None:
    set_published(tx, room_nid, True)
