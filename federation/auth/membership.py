"""The rules of `m.room.member`: join, invite, leave, ban, knock.

Names follow the specification: the *target* is the user of the state key, the *sender* acts upon them.

Spec anchor: rooms/v12#authorisation-rules rule 5 and its forerunners.
"""

from typing import Any, Final

from federation.auth.power import PowerLevels, parse_power_levels, room_creators
from federation.auth.select import (
    AUTHORISED_BY,
    JOIN_RULES,
    MEMBER,
    POWER_LEVELS,
    THIRD_PARTY_INVITE,
    StateLookup,
    third_party_token,
)
from federation.auth.third_party import is_signed_by_any
from federation.event import Event
from federation.ids import parse_user_id_historical, parses
from federation.verdict import ACCEPT, Reject, Verdict

_BANNED: Final = Reject("target is banned")
_SENDER_NOT_JOINED: Final = Reject("sender is not in the room")
_NOT_SELF: Final = Reject("sender and state_key differ")


def check_membership(event: Event, create: Event, lookup: StateLookup, power: PowerLevels | None) -> Verdict:
    target_id, content = event.state_key, event.content
    if target_id is None:
        return Reject("member event has no state_key")
    if "membership" not in content:
        return Reject("member event has no membership")
    if (
        event.rules.restricted_join
        and AUTHORISED_BY in content
        and not parses(parse_user_id_historical, content[AUTHORISED_BY])
    ):
        # As ``signing.required_signers`` asks it.
        # spec: rooms/v8#authorisation-rules rule 4.2 (whose server must have signed is seen to with the signatures)
        return Reject("no server can have signed for whoever authorises this")
    membership = content["membership"]
    if membership == "join":
        return _check_join(event, target_id, create, lookup, power)
    if membership == "knock" and event.rules.knock:
        return _check_knock(event, target_id, lookup)
    if membership == "invite":
        return _check_invite(event, target_id, create, lookup, power)
    if membership == "leave":
        return _check_leave(event, target_id, create, lookup, power)
    if membership == "ban":
        return _check_ban(event, target_id, create, lookup, power)
    return Reject("unknown membership")


def membership_of(lookup: StateLookup, user_id: str) -> Any:
    """The user's membership in that state; None for whoever was never seen there."""
    member = lookup(MEMBER, user_id)
    return None if member is None else member.content.get("membership")


def join_rule_of(lookup: StateLookup) -> Any:
    """The join rule in force. Rooms without one are by invitation only."""
    # spec: client-server-api#mroomjoin_rules
    join_rules = lookup(*JOIN_RULES)
    return "invite" if join_rules is None else join_rules.content.get("join_rule", "invite")


def _levels(lookup: StateLookup, create: Event, event: Event, power: PowerLevels | None) -> PowerLevels:
    return parse_power_levels(lookup(*POWER_LEVELS), create, event.rules) if power is None else power


def _check_join(
    event: Event, target_id: str, create: Event, lookup: StateLookup, power: PowerLevels | None
) -> Verdict:
    rules = event.rules
    if event.prev_event_ids == (create.event_id,) and target_id in room_creators(create, rules)[:1]:
        # Only the sender of the create event, or the creator it names; additional creators join as others do.
        return ACCEPT
    if event.sender != target_id:
        return _NOT_SELF
    membership = membership_of(lookup, target_id)
    if membership == "ban":
        return _BANNED
    join_rule = join_rule_of(lookup)
    if join_rule == "public":
        return ACCEPT
    by_invitation = join_rule == "invite" or (join_rule == "knock" and rules.knock)
    by_restriction = (join_rule == "restricted" and rules.restricted_join) or (
        join_rule == "knock_restricted" and rules.knock_restricted_join
    )
    if (by_invitation or by_restriction) and membership in ("invite", "join"):
        return ACCEPT
    if not by_restriction:
        return Reject("the join rule does not allow this join")
    # spec: rooms/v8#authorisation-rules
    authoriser_id = event.content.get(AUTHORISED_BY)
    if not isinstance(authoriser_id, str) or membership_of(lookup, authoriser_id) != "join":
        return Reject("no joined member authorises this restricted join")
    levels = _levels(lookup, create, event, power)
    if levels.user(authoriser_id) < levels.invite:
        return Reject("the authorising member may not invite")
    return ACCEPT


def _check_invite(
    event: Event, target_id: str, create: Event, lookup: StateLookup, power: PowerLevels | None
) -> Verdict:
    if "third_party_invite" in event.content:
        return _check_third_party_invite(event, target_id, lookup)
    if membership_of(lookup, event.sender) != "join":
        return _SENDER_NOT_JOINED
    if membership_of(lookup, target_id) in ("join", "ban"):
        return Reject("target is in the room or banned")
    levels = _levels(lookup, create, event, power)
    if levels.user(event.sender) < levels.invite:
        return Reject("sender has too little power to invite")
    return ACCEPT


def _check_third_party_invite(event: Event, target_id: str, lookup: StateLookup) -> Verdict:
    # spec: server-server-api#third-party-invites
    if membership_of(lookup, target_id) == "ban":
        return _BANNED
    token = third_party_token(event.content)
    if token is None:
        return Reject("third-party invite has no signed token")
    signed = event.content["third_party_invite"]["signed"]
    if signed.get("mxid") != target_id:
        return Reject("third-party invite is for another user")
    offer = lookup(THIRD_PARTY_INVITE, token)
    if offer is None:
        return Reject("no third-party invite with this token")
    if offer.sender != event.sender:
        return Reject("third-party invite was made by another user")
    if not is_signed_by_any(signed, offer.content):
        return Reject("third-party invite is not validly signed")
    return ACCEPT


def _check_leave(
    event: Event, target_id: str, create: Event, lookup: StateLookup, power: PowerLevels | None
) -> Verdict:
    sender_membership = membership_of(lookup, event.sender)
    if event.sender == target_id:
        if sender_membership in ("invite", "join") or (sender_membership == "knock" and event.rules.knock):
            return ACCEPT
        return Reject("sender has nothing to leave")
    if sender_membership != "join":
        return _SENDER_NOT_JOINED
    levels = _levels(lookup, create, event, power)
    sender_level = levels.user(event.sender)
    if membership_of(lookup, target_id) == "ban" and sender_level < levels.ban:
        return Reject("sender has too little power to unban")
    if sender_level < levels.kick or levels.user(target_id) >= sender_level:
        return Reject("sender has too little power to kick")
    return ACCEPT


def _check_ban(
    event: Event, target_id: str, create: Event, lookup: StateLookup, power: PowerLevels | None
) -> Verdict:
    if membership_of(lookup, event.sender) != "join":
        return _SENDER_NOT_JOINED
    levels = _levels(lookup, create, event, power)
    sender_level = levels.user(event.sender)
    if sender_level < levels.ban or levels.user(target_id) >= sender_level:
        return Reject("sender has too little power to ban")
    return ACCEPT


def _check_knock(event: Event, target_id: str, lookup: StateLookup) -> Verdict:
    # spec: rooms/v7#authorisation-rules
    join_rule = join_rule_of(lookup)
    if join_rule != "knock" and not (join_rule == "knock_restricted" and event.rules.knock_restricted_join):
        return Reject("the join rule does not allow knocking")
    if event.sender != target_id:
        return _NOT_SELF
    if membership_of(lookup, event.sender) in ("ban", "invite", "join"):
        return Reject("sender is banned, invited or in the room")
    return ACCEPT
