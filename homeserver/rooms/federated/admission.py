"""Users of other servers who join, knock on or leave a room of ours: templates for their servers, and what comes back.

Two steps, each one turn of the room: ``make`` builds a template on the head; ``send`` takes the event that the other
server made of it, holds it to every check, places it, and for a join signs it too where a member of this server lets
the user in. Between the two nothing is remembered: an event that cites a head of a while ago is a fork like any other.

# spec: server-server-api#joining-rooms
# spec: server-server-api#restricted-rooms
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from federation.acl import ServerAcl
from federation.auth.rules import check_state_dependent
from federation.auth.select import AUTHORISED_BY, auth_keys_for
from federation.builder import Draft
from federation.event import Event, parse_stored, stored_bytes
from federation.ids import EventId, RoomId, ServerName, UserId, domain_of
from federation.signing import Signer, sign_event
from federation.verdict import Accept
from federation.versions import RoomRules
from homeserver.http.errors import MatrixError, forbidden, invalid_param, not_found
from homeserver.peers.types import EventKeys
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.arrivals import Arrival, Missing, Placed, arrive
from homeserver.rooms.federated.branches import tell_branches
from homeserver.rooms.federated.restricted import RestrictedJoins, is_restricted
from homeserver.rooms.federated.signed import check_signed, parse_event
from homeserver.rooms.federated.templates import make_template
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import RoomTools, Turn
from homeserver.store.events import find_row
from homeserver.store.ids import STRIPPED
from homeserver.store.outgoing import Relay, relay
from homeserver.store.peer_reads import as_redacted, load_texts
from homeserver.stream.index import MembershipIndex

_MEMBER = "m.room.member"
_JOIN_RULES = ("m.room.join_rules", "")
_CREATE = ("m.room.create", "")
_ACL = ("m.room.server_acl", "")


@dataclass(frozen=True, slots=True)
class Admitted:
    """A membership event that was placed, as this server signed it."""

    nid: int
    event: Event


class Admission:
    """See the module. ``index`` says in which rooms this server is."""

    def __init__(
        self,
        rooms: RoomRegistry,
        index: MembershipIndex,
        restricted: RestrictedJoins,
        keys: EventKeys,
        is_incomplete: Callable[[int], bool],
    ) -> None:
        self._rooms = rooms
        self._tools = rooms.tools
        self._index = index
        self._restricted = restricted
        self._keys = keys
        self._is_incomplete = is_incomplete

    async def resident(self, room_id: RoomId) -> RoomActor:
        """The actor of a room that this server is in; 404 M_NOT_FOUND for any other."""
        actor = await self._rooms.find(room_id)
        if not self._index.local_members(actor.room_nid):
            raise not_found("This server is not in that room")
        if self._is_incomplete(actor.room_nid):
            raise not_found("This server does not know all of that room yet")
        return actor

    # --- templates -----------------------------------------------------------------------------------

    async def make(
        self,
        origin: ServerName,
        membership: str,
        room_id: RoomId,
        user_id: UserId,
        versions: Collection[str] | None = None,
    ) -> dict[str, Any]:
        """The answer to ``make_join``, ``make_knock`` or ``make_leave``; ``versions`` None: it does not matter."""
        # spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
        if domain_of(user_id) != origin:
            raise forbidden("The user is not of your server")
        actor = await self.resident(room_id)

        async def job(turn: Turn) -> dict[str, Any]:
            await check_acl(turn, origin)
            _check_version(turn.head.rules, versions)
            content: dict[str, Any] = {"membership": membership}
            if membership == "join":
                authoriser_id = await self._authoriser(turn, user_id)
                if authoriser_id is not None:
                    content[AUTHORISED_BY] = authoriser_id
            elif membership == "knock" and not turn.head.rules.knock:
                raise forbidden("Nobody can knock on rooms of this version")
            draft = Draft(room_id, _MEMBER, user_id, content, user_id)
            return await make_template(turn, self._tools, draft)

        return {"room_version": actor.version, "event": await actor.run(job)}

    async def _authoriser(self, turn: Turn, user_id: UserId) -> str | None:
        """Who lets a user in where the join rule asks for that and no invite does."""
        join_rules = await turn.state(*_JOIN_RULES)
        if join_rules is None or not is_restricted(join_rules, turn.head.rules):
            return None
        member = await turn.state(_MEMBER, user_id)
        if member is not None and member.content.get("membership") in ("join", "invite", "ban"):
            return None  # allowed, or refused, whatever the conditions are
        return await self._restricted.authorise_remote(turn, join_rules, user_id)

    # --- signed events -------------------------------------------------------------------------------

    async def send(
        self, origin: ServerName, membership: str, room_id: RoomId, event_id: EventId, pdu: dict[str, Any]
    ) -> Admitted:
        """Place the event of ``send_join``, ``send_knock`` or ``send_leave``; the same again for a retry."""
        # spec: server-server-api#put_matrixfederationv2send_joinroomideventid
        actor = await self.resident(room_id)
        rules = await actor.run(lambda turn: self._look(turn, origin))
        event = parse_event(pdu, rules)
        check_membership_event(event, membership, room_id, event_id)
        if domain_of(event.sender) != origin or event.state_key != event.sender:
            raise invalid_param("The event is not by a user of your server about themselves")
        server_name = self._tools.signer.server_name
        authoriser_id = event.content.get(AUTHORISED_BY) if membership == "join" else None
        vouched = isinstance(authoriser_id, str) and authoriser_id.endswith(f":{server_name}")
        await check_signed(event, self._keys, [server_name] if vouched else ())
        if vouched:
            event = co_sign(event, self._tools.signer)
        event = await self.approved(actor, event)

        async def job(turn: Turn) -> Admitted:
            await check_acl(turn, origin)
            if vouched:
                await self._check_vouched(turn, event)
            return await self.place(turn, event)

        return await actor.run(job)

    async def approved(self, actor: RoomActor, event: Event, *, is_ours: bool = False) -> Event:
        """With the signature of the room's policy server, where it has one that gives it.

        # spec: server-server-api#validating-policy-server-signatures
        """
        policing = self._rooms.policing
        if policing is None:
            return event
        return await policing.approved(event, await actor.run(policing.server_of), is_ours=is_ours)

    async def _look(self, turn: Turn, origin: ServerName) -> RoomRules:
        await check_acl(turn, origin)
        return turn.head.rules

    async def _check_vouched(self, turn: Turn, event: Event) -> None:
        """Refuse to sign for a user who meets no condition: any member's name can be put into an event."""
        join_rules = await turn.state(*_JOIN_RULES)
        if join_rules is not None and is_restricted(join_rules, turn.head.rules):
            member = await turn.state(_MEMBER, event.sender)
            if member is None or member.content.get("membership") not in ("join", "invite"):
                await self._restricted.check_remote(join_rules, event.sender)
                await self._restricted.check_authoriser(turn, event.content[AUTHORISED_BY])

    async def place(self, turn: Turn, event: Event) -> Admitted:
        """Place an event that must stand by the current state too; refuses (403) what the room's rules refuse."""
        row = await self._tools.database.read(find_row, event.event_id)
        if row is not None and row.room_nid != turn.head.room_nid:
            raise invalid_param("An event of another room has this id")
        if row is not None and row.pos is not None:
            stored = (await turn.events([row.nid]))[row.nid]
            # In rooms of the first versions others choose the ids: one of another event is no ticket to this room.
            if (stored.room_id, stored.reference()) != (event.room_id, event.reference()):
                raise invalid_param("There is another event with this id")
            return Admitted(row.nid, event)  # a retry
        keys = auth_keys_for(event.rules, event.type, event.sender, event.state_key, event.content)
        await turn.load([*keys, _CREATE])
        # Before it is stored as rejected or soft-failed: who hands it over can still be told.
        verdict = check_state_dependent(event, turn.lookup, await turn.power_levels())
        if not isinstance(verdict, Accept):
            raise forbidden(verdict.reason)
        (arrived,) = await arrive(turn, [Arrival(event)])
        if isinstance(arrived, Missing):
            raise invalid_param("The event cites events that this server does not have")
        if isinstance(arrived, Placed):
            if not isinstance(arrived.verdict, Accept):
                raise forbidden(arrived.verdict.reason)
            relay_others(turn, arrived.nid, event)
            if event.content.get("membership") == "join":
                await tell_branches(turn, arrived.nid, event)
        elif not arrived.is_shown:
            # It came by itself before, and did not stand: nor does it now, and its server must not believe so.
            raise forbidden("The event was refused before")
        return Admitted(arrived.nid, event)

    # --- what strangers may see ----------------------------------------------------------------------

    async def stripped(self, room_id: RoomId) -> list[bytes]:
        """The state that somebody sees who is not in the room yet, as whole events."""
        # spec: client-server-api#stripped-state
        actor = await self.resident(room_id)
        return await actor.run(lambda turn: load_stripped(turn, self._tools))


def relay_others(turn: Turn, nid: int, event: Event, *, made_here: bool = False) -> None:
    """Send an event on that another server's user made through us: the room's other servers have it from nobody else.

    ``made_here``: nor has the user's own server, for it is we who made the event in their name.
    """
    server = domain_of(event.sender)
    if server == turn.tools.signer.server_name:
        return
    told = Relay(event.event_id, turn.head.room_nid, event.sender, stored_bytes(event))
    turn.extra.append(partial(relay, event_nid=nid, payload=told))
    if made_here:
        turn.extra.append(partial(relay, event_nid=nid, payload=told._replace(only_to=server)))


async def load_stripped(turn: Turn, tools: RoomTools, *members: str) -> list[bytes]:
    """The same within a turn: the create event first. ``members``: whose membership is told with it."""
    keys = [*STRIPPED, *((_MEMBER, user_id) for user_id in members)]
    await turn.load(keys)
    found = [one for key in keys if (one := turn.warm[key]) is not None]
    # What is on its way to the disk now may be there, or not, when that is read.
    unstored = {one.nid: one.json for one in turn.unstored()}
    redacted = turn.redacted_unstored(found)
    rules = turn.head.rules
    texts = await tools.database.read(load_texts, [nid for nid, _ in found], rules)
    texts.update((nid, unstored[nid]) for nid, _ in found if nid in unstored)
    return [as_redacted(texts[nid], rules) if nid in redacted else texts[nid] for nid, _ in found]


async def check_acl(turn: Turn, origin: ServerName) -> None:
    """Refuse (403) a server that the room does not want.

    # spec: server-server-api#server-access-control-lists-acls
    """
    acl = await turn.state(*_ACL)
    if acl is not None and not ServerAcl.parse(acl.content).allows(origin):
        raise forbidden("Your server is not allowed in this room")


def check_membership_event(event: Event, membership: str, room_id: RoomId, event_id: EventId) -> None:
    """Refuse (400) an event that is not what the endpoint is for."""
    if event.event_id != event_id:
        raise invalid_param(f"The event's id is {event.event_id}")
    if event.room_id != room_id:
        raise invalid_param("The event is of another room")
    if event.type != _MEMBER or event.state_key is None or event.content.get("membership") != membership:
        raise invalid_param(f"The event is no membership event that says {membership}")


def co_sign(event: Event, signer: Signer) -> Event:
    """The event with our signature beside the others; refuses (413) one that it makes too large.

    Every other server would drop that: it would be in the room for us alone.
    """
    return parse_stored(event.event_id, sign_event(event.json, event.rules, signer), event.rules)


def _check_version(rules: RoomRules, versions: Collection[str] | None) -> None:
    if versions is not None and rules.version not in versions:
        raise MatrixError(
            400,
            "M_INCOMPATIBLE_ROOM_VERSION",
            "Your server does not support the version of this room",
            room_version=rules.version,
        )
