"""Sending: messages, state events and redactions of local users, once per transaction id."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import msgspec

from federation.auth.power import room_creators
from federation.builder import Draft
from federation.event import Event, check_text_field
from federation.ids import (
    EventId,
    RoomId,
    UserId,
    domain_of,
    is_user_id,
    parse_event_id,
    parse_user_id_historical,
)
from homeserver.http.errors import MatrixError, bad_json, forbidden, not_found, user_suspended
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.annotations import check_annotation
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.thread_roots import check_thread
from homeserver.rooms.transactions import TransactionCache
from homeserver.rooms.turn import Finish, Turn, finished
from homeserver.rooms.types import Requester
from homeserver.store.events import load_redacting
from homeserver.store.parsed import load_event_of_room
from homeserver.store.placement import ClientTransaction

MESSAGE = "m.room.message"
REDACTION = "m.room.redaction"
POWER_LEVELS = "m.room.power_levels"
StateCheck = Callable[[RoomId, str, Mapping[str, Any]], Awaitable[None]]
SetMember = Callable[[Draft, Finish | None, ClientTransaction | None], Awaitable[str]]
_LEVELS = ("ban", "events_default", "invite", "kick", "redact", "state_default", "users_default")
_LEVELS_BY_NAME = ("events", "notifications", "users")


class Sender:
    """The entrance for everything that a client puts into a room that exists.

    ``state_checks``: by event type, what looks at a state event (its sender, its content) before it is set, and may refuse it.
    ``set_member`` sets member events in this class's stead, as joins and invites ask for more than the room's rules.
    """

    def __init__(
        self,
        rooms: RoomRegistry,
        transactions: TransactionCache,
        state_checks: Mapping[str, StateCheck] = MappingProxyType({}),
        set_member: SetMember | None = None,
    ) -> None:
        self._rooms = rooms
        self._transactions = transactions
        self._state_checks = state_checks
        self._set_member = set_member

    async def send(
        self,
        requester: Requester,
        draft: Draft,
        txn_id: str,
        endpoint: str = "send",
        *,
        is_suspended: bool = False,
        is_admin: bool = False,
        finish: Finish | None = None,
    ) -> str:
        """Send a message event or (``endpoint="redact"``) a redaction; the event id, the same for a retry.

        ``is_suspended``: of somebody who may redact what they wrote, and no more. ``is_admin``: of an administrator of
        the server, who may redact what its users wrote.
        """
        assert draft.room_id is not None
        actor = self._rooms.known(draft.room_id) or await self._actor(draft.room_id)
        what = draft.redacts if endpoint == "redact" else draft.type
        key = f"{endpoint}/{what}/{txn_id}"
        # A token without a device is told apart by its user.
        device_nid = requester.device_nid or -requester.user_nid
        transaction = ClientTransaction(device_nid, key, self._rooms.tools.clock.now_ms())
        transactions, room_nid = self._transactions, actor.room_nid
        while True:
            if transactions.is_loaded(device_nid):
                done = transactions.known(device_nid, room_nid, key)
            else:
                done = await transactions.find(device_nid, room_nid, key)
            if done is not None:
                return done
            first = transactions.begin(device_nid, room_nid, key)
            if first is None:
                break
            if answer := await first:
                return answer
        event_id = ""
        try:
            event_id = await self._place(
                actor, draft, transaction, finish, is_suspended=is_suspended, is_admin=is_admin
            )
            transactions.put(device_nid, room_nid, key, event_id)
            return event_id
        finally:
            transactions.end(device_nid, room_nid, key, event_id)

    async def _actor(self, room_id: RoomId) -> RoomActor:
        """The room's actor. Whether a room exists is no stranger's business: 403 for an unknown one."""
        try:
            return await self._rooms.find(room_id)
        except MatrixError as error:
            if error.status != 404:
                raise
            raise forbidden("You are not in this room") from None

    async def send_once(
        self, draft: Draft, finish: Finish, transaction: ClientTransaction | None = None
    ) -> str:
        """Send what has waited, a message or state; ``finish`` is stored with it, and by what its user knows it."""
        assert draft.room_id is not None
        actor = self._rooms.known(draft.room_id) or await self._actor(draft.room_id)
        if draft.state_key is not None:
            event_id = await self.put_state(draft, finish, transaction)
        else:
            event_id = await self._place(actor, draft, transaction, finish)
        if transaction is not None:
            self._transactions.put(transaction.device_nid, actor.room_nid, transaction.txn_key, event_id)
        return event_id

    async def redact_unless_done(self, draft: Draft) -> None:
        """Send a redaction that nobody waits for; none of what is redacted already."""
        assert draft.room_id is not None and draft.redacts is not None
        actor = self._rooms.known(draft.room_id) or await self._actor(draft.room_id)
        target_id = draft.redacts

        async def job(turn: Turn) -> None:
            if not await _is_redacted(turn, target_id):
                await self._check_redaction(turn, draft.sender, target_id, is_suspended=False, is_admin=False)
                await turn.place(draft, redacts_target=target_id)

        await actor.run(job)

    async def _place(
        self,
        actor: RoomActor,
        draft: Draft,
        transaction: ClientTransaction | None,
        finish: Finish | None = None,
        *,
        is_suspended: bool = False,
        is_admin: bool = False,
    ) -> str:
        check_text_field("type", draft.type)  # before anything is looked up by it
        if draft.type == REDACTION and draft.redacts is None:
            draft = _as_redaction(draft)
        elif draft.type == "m.room.create":
            raise forbidden("A room is created once")
        if is_suspended and draft.redacts is None:
            raise user_suspended()
        check_message(draft.type, draft.content)

        async def job(turn: Turn) -> str:
            if turn.attempt and transaction is not None:
                stored = await self._transactions.find_stored(
                    transaction.device_nid, actor.room_nid, transaction.txn_key
                )
                if stored is not None:
                    return stored
            if draft.type == POWER_LEVELS:
                await _check_power_levels(turn, draft.content)
            if "m.relates_to" in draft.content:
                await check_annotation(turn, draft)
                await check_thread(turn, draft)
            target_id = draft.redacts
            if target_id is not None:
                await self._check_redaction(
                    turn, draft.sender, target_id, is_suspended=is_suspended, is_admin=is_admin
                )
            placed = await turn.place(draft, transaction=transaction, redacts_target=target_id)
            return finished(turn, placed.event.event_id, finish)

        return await actor.run(job)

    async def put_state(
        self, draft: Draft, finish: Finish | None = None, transaction: ClientTransaction | None = None
    ) -> str:
        """Set a state event; the event id."""
        room_id = draft.room_id
        assert room_id is not None and draft.state_key is not None
        actor = self._rooms.known(room_id) or await self._actor(room_id)
        check = self._state_checks.get(draft.type)
        if check is not None:
            await check(room_id, draft.sender, draft.content)
        if draft.type == "m.room.member":
            parse_user_id_historical(draft.state_key)
            if self._set_member is not None:
                return await self._set_member(draft, finish, transaction)

        async def job(turn: Turn) -> str:
            if draft.type == POWER_LEVELS:
                await _check_power_levels(turn, draft.content)
            return finished(turn, await place_news(turn, draft, transaction), finish)

        return await actor.run(job)

    async def _check_redaction(
        self, turn: Turn, sender_id: str, target_id: str, *, is_suspended: bool, is_admin: bool
    ) -> None:
        """Refuse a redaction that may not take effect.

        # spec: client-server-api#redactions
        """
        member = await turn.state("m.room.member", sender_id)
        if member is None or member.content.get("membership") != "join":
            raise forbidden("You are not in this room")
        target = await self._find(target_id, turn)
        if target is None:
            raise not_found("The event to redact was not found in this room")
        if is_suspended and target.sender != sender_id:
            raise user_suspended()
        power = await turn.power_levels()
        may_any = is_admin and domain_of(target.sender) == domain_of(sender_id)
        if target.sender != sender_id and not may_any and power.user(sender_id) < power.redact:
            raise forbidden("You may not redact other people's events")
        if target.type == "m.room.create":
            raise forbidden("A room's create event cannot be redacted")
        if target.type == "m.room.server_acl":
            # Nothing is left of it then, and an empty one denies every server.
            # spec: client-server-api#server-access-control-lists-acls-for-rooms
            raise forbidden("A redaction of server ACLs would shut everybody out: set others instead")

    async def _find(self, event_id: str, turn: Turn) -> Event | None:
        tools = self._rooms.tools
        return await tools.database.read(load_event_of_room, event_id, turn.head.room_nid, tools.events)


async def _is_redacted(turn: Turn, event_id: str) -> bool:
    # What is not stored yet is looked at first: while the database is asked, it may come to be stored.
    for one in turn.unstored():
        if one.redacts_target == event_id or (one.redacted_by and one.event.event_id == event_id):
            return True
    return bool(await turn.tools.database.read(load_redacting, [event_id]))


def check_message(event_type: str, content: Mapping[str, Any]) -> None:
    """Refuse (400) a message that does not tell of which sort it is, or what it says in plain text."""
    # spec: client-server-api#instant-messaging (what the server does)
    if event_type == MESSAGE and not (
        isinstance(content.get("msgtype"), str) and isinstance(content.get("body"), str)
    ):
        raise bad_json("A message must have a msgtype and a body, both of them text")


def _as_redaction(draft: Draft) -> Draft:
    """A redaction that was sent as an ordinary event: its target goes to where the room's version has it."""
    # spec: client-server-api#put_matrixclientv3roomsroomidsendeventtypetxnid (v1.18)
    target = draft.content.get("redacts")
    if not isinstance(target, str):
        raise bad_json("A redaction must name the event that it redacts")
    rest = {key: value for key, value in draft.content.items() if key != "redacts"}
    return replace(draft, content=rest, redacts=parse_event_id(target))


_sorted = msgspec.json.Encoder(order="sorted").encode


async def place_news(turn: Turn, draft: Draft, transaction: ClientTransaction | None = None) -> str:
    """Place a state event, or nothing where it says the same again; the event's id.

    A transaction is always placed, and what is to stick: it sticks on by being said again.
    """
    same = None if transaction is not None or draft.sticky_ms else await _find_same(turn, draft)
    return same or (await turn.place(draft, transaction=transaction)).event.event_id


async def _find_same(turn: Turn, draft: Draft) -> str | None:
    """The state event in force, where the same user says the same again: nothing changes by it."""
    current = await turn.state(draft.type, draft.state_key or "")
    if current is None or current.sender != draft.sender:
        return None
    member = await turn.state("m.room.member", draft.sender)
    if member is None or member.content.get("membership") != "join":
        return None
    if _sorted(current.content) != _sorted(draft.content):
        return None
    # What was redacted is not said any more.
    shown = await turn.content(draft.type, draft.state_key or "")
    return current.event_id if shown == current.content else None


async def _check_power_levels(turn: Turn, content: Mapping[str, Any]) -> None:
    """Refuse (400) what is no power levels to every server in the room, before the rules of its version refuse it."""
    rules = turn.head.rules
    in_force = await turn.state(POWER_LEVELS, "")
    problem = wrong_levels(content, {} if in_force is None else in_force.content)
    if problem is not None:
        raise bad_json(problem)
    create = await turn.state("m.room.create", "")
    users = content.get("users")
    if rules.privileged_creators and create is not None and isinstance(users, dict):
        # spec: rooms/v12#authorization-rules (9.4)
        if any(user_id in users for user_id in room_creators(create, rules)):
            raise bad_json("A room's creators have no power levels: they may do everything")


def wrong_levels(
    content: Mapping[str, Any], in_force: Mapping[str, Any] = MappingProxyType({})
) -> str | None:
    """What is wrong with power levels, if anything, but for what the room's rules refuse in integers.

    Nobody is given a level that is no integer. Room versions before 10 take some, and in another server's event such a
    one may be in force: in its place it may stay, or nobody could change the rest.
    """
    # spec: server-server-api#authorisation-rules (reasonable precautions), rooms/v10#values-in-mroompower_levels-events-must-be-integers
    places = [({name: content[name] for name in _LEVELS if name in content}, in_force)]
    for name in _LEVELS_BY_NAME:
        by_name, before = content.get(name, {}), in_force.get(name)
        if isinstance(by_name, dict):
            places.append((by_name, before if isinstance(before, dict) else {}))
        elif not _stays(name, by_name, in_force):
            return f"{name} must be an object"
    for levels, before in places:
        if any(type(level) is not int and not _stays(name, level, before) for name, level in levels.items()):
            return "Power levels must be integers"
    if not all(is_user_id(user_id) for user_id in content.get("users", ())):
        return "users must hold user ids"
    return None


def _stays(name: str, value: object, in_force: Mapping[str, Any]) -> bool:
    before = in_force.get(name)
    # True is equal to 1, and is none.
    return name in in_force and type(before) is type(value) and before == value


def redaction(room_id: RoomId, sender: UserId, target_id: EventId, content: dict[str, Any]) -> Draft:
    """The draft of a redaction."""
    return Draft(room_id=room_id, type=REDACTION, sender=sender, content=content, redacts=target_id)
