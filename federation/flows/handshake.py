"""Asking other servers to let a user in: make_join and send_join, and the same for knocks and leaves.

The asked server makes a template of the event, we fill it in and sign it, it places it. A template is a stranger's
text: of it are taken the references, the depth and the member who lets the user in, and nothing else. Servers are
asked in turn until one does what it is asked; a refusal ends the search only when a second server says the same,
because the first may not know better, or lie.

Pure: see `needs.py`. The driver signs, asks and judges.

# spec: server-server-api#joining-rooms
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from federation.auth.select import AUTHORISED_BY
from federation.errors import Malformed
from federation.event import Event, parse_untrusted
from federation.ids import RoomId, ServerName, UserId, parse_user_id_historical
from federation.versions import ROOM_VERSIONS, RoomRules

# So many servers must refuse before we believe it.
REFUSALS_BELIEVED: Final = 2
# LIMIT(servers asked for one membership)
MAX_SERVERS: Final = 20
# Refusals that are about the server which is asked, and not about the user.
_TRY_ANOTHER: Final = frozenset(
    ("M_UNABLE_TO_AUTHORISE_JOIN", "M_UNABLE_TO_GRANT_JOIN", "M_NOT_FOUND", "M_UNRECOGNIZED")
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user of ours wants to be in a room. `rules` where the version of the room is known already."""

    membership: str
    room_id: RoomId
    user_id: UserId
    content: Mapping[str, Any] = field(default_factory=dict)
    """What goes into the event beside the membership: the profile, a reason."""
    rules: RoomRules | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer that is an error."""

    server: ServerName
    status: int
    errcode: str
    message: str
    content: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Silent:
    """No answer, or none that makes sense."""

    server: ServerName
    reason: str
    answered: bool = False
    """Something came: the server has heard the question."""


@dataclass(frozen=True, slots=True)
class NeedTemplate:
    """GET make_join, make_knock or make_leave. Answered with the object, Refused or Silent."""

    server: ServerName
    wish: Wish


@dataclass(frozen=True, slots=True)
class NeedSigned:
    """Hash and sign an event whose time and (in old versions) id are still to be given.

    Answered with the event's JSON; None where it cannot be written at all.
    """

    fields: Mapping[str, Any]
    rules: RoomRules


@dataclass(frozen=True, slots=True)
class NeedAccepted:
    """PUT send_join, send_knock or send_leave. Answered with whatever the driver makes of a 2xx answer, Refused or Silent.

    Of a join the driver checks the answer before it gives it back, and says Silent to one that does not hold.
    """

    server: ServerName
    wish: Wish
    event: Event


@dataclass(frozen=True, slots=True)
class Accepted:
    """The event was taken by a server; `answer` is the driver's."""

    server: ServerName
    event: Event
    answer: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """Nobody let the user in: what was said, in order. Empty: there was nobody to ask."""

    said: tuple[Refused | Silent, ...]

    def refusal(self) -> Refused | None:
        """The refusal that tells the user most: one about them, else one about the room, else that it is unknown."""
        refusals = [one for one in self.said if isinstance(one, Refused)]
        return min(refusals, key=_weight, default=None)


Need = NeedTemplate | NeedSigned | NeedAccepted


def handshake(wish: Wish, servers: Sequence[ServerName]) -> Generator[Need, Any, Accepted | Failed]:
    """Ask servers in turn; ends with the first that did it, or with what all of them said."""
    said: list[Refused | Silent] = []
    for server in servers[:MAX_SERVERS]:
        outcome = yield from _ask(wish, server)
        if isinstance(outcome, Accepted):
            return outcome
        said.append(outcome)
        if sum(1 for one in said if isinstance(one, Refused) and is_final(one)) >= REFUSALS_BELIEVED:
            break
    return Failed(tuple(said))


def _ask(wish: Wish, server: ServerName) -> Generator[Need, Any, Accepted | Refused | Silent]:
    template = yield NeedTemplate(server, wish)
    if isinstance(template, (Refused, Silent)):
        return template
    try:
        fields, rules = fill_in(template, wish)
    except Malformed as error:
        return Silent(server, f"its template does not hold: {error.message}")
    signed = yield NeedSigned(fields, rules)
    try:
        # Of the references in it we have only the other server's word.
        event = parse_untrusted(signed, rules)
    except Malformed as error:
        return Silent(server, f"its template makes no event: {error.message}")
    answer = yield NeedAccepted(server, wish, event)
    if isinstance(answer, (Refused, Silent)):
        return answer
    return Accepted(server, event, answer)


def is_final(refused: Refused) -> bool:
    """Whether a refusal is about the user and the room, and not about the server that was asked."""
    return 400 <= refused.status < 500 and refused.status != 429 and refused.errcode not in _TRY_ANOTHER


def _weight(refused: Refused) -> int:
    if is_final(refused):
        return 0
    return 2 if refused.errcode == "M_NOT_FOUND" or refused.status >= 500 else 1


def fill_in(answer: Any, wish: Wish) -> tuple[dict[str, Any], RoomRules]:
    """The event's fields from a template. Raises Malformed where it is not for what was asked.

    # spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
    """
    template = answer.get("event") if isinstance(answer, Mapping) else None
    if not isinstance(template, Mapping):
        raise Malformed("there is no event")
    rules = _rules(answer.get("room_version", "1"), wish)
    content = template.get("content")
    if not isinstance(content, Mapping):
        raise Malformed("its content is no object")
    expected = {
        "type": "m.room.member",
        "room_id": wish.room_id,
        "sender": wish.user_id,
        "state_key": wish.user_id,
    }
    for name, value in expected.items():
        if template.get(name) != value:
            raise Malformed(f"its {name} is another")
    if content.get("membership") != wish.membership:
        raise Malformed("its membership is another")
    fields: dict[str, Any] = {
        **expected,
        "content": {**wish.content, "membership": wish.membership, **_authoriser(content, wish, rules)},
        "prev_events": template.get("prev_events"),
        "auth_events": template.get("auth_events"),
        "depth": template.get("depth"),
    }
    if not isinstance(fields["prev_events"], list) or not fields["prev_events"]:
        raise Malformed("it follows no event")
    return fields, rules


def _rules(version: Any, wish: Wish) -> RoomRules:
    rules = ROOM_VERSIONS.get(version) if isinstance(version, str) else None
    if rules is None:
        raise Malformed("its room version is not known")
    if wish.rules is not None and wish.rules is not rules:
        raise Malformed("the room has another version")
    if (":" in wish.room_id) == rules.room_id_is_create_hash:
        raise Malformed("the room's id has not the form of its version")
    return rules


def _authoriser(content: Mapping[str, Any], wish: Wish, rules: RoomRules) -> dict[str, str]:
    """Who lets the user in, where the room is restricted."""
    authoriser_id = content.get(AUTHORISED_BY)
    if authoriser_id is None or wish.membership != "join" or not rules.restricted_join:
        return {}
    try:
        return {AUTHORISED_BY: parse_user_id_historical(authoriser_id)}
    except Malformed:
        raise Malformed("who lets the user in is no user") from None
