"""The authorisation rules: may this event stand, by its own auth events and by a given room state?

Two halves, as the receipt checks need them. `check_state_independent` looks at the event and its auth events alone
and is asked once per event. `check_state_dependent` is asked against each state in turn (auth events, state before,
current state, states under resolution); it is on the path of every message, so it reads a dictionary or two and
allocates nothing before it must.

That a restricted join carries the signature of the authorising user's server is a signature check: the required
signers of an event (signing.py) include that server.

Spec anchors: server-server-api#authorisation-rules, rooms/v1 to rooms/v12.
"""

from collections.abc import Collection, Sequence
from typing import Final

from federation.auth.membership import check_membership
from federation.auth.power import (
    PowerLevels,
    check_power_levels_event,
    parse_power_levels,
)
from federation.auth.select import (
    CREATE,
    MEMBER,
    POWER_LEVELS,
    THIRD_PARTY_INVITE,
    StateLookup,
    auth_keys_for,
)
from federation.event import Event
from federation.ids import EventId, is_user_id
from federation.verdict import ACCEPT, Reject, Verdict
from federation.versions import ROOM_VERSIONS, RoomRules

_NO_CREATE: Final = Reject("the room has no create event")
_WRONG_CREATE: Final = Reject("room_id is not that of the create event")
_UNFEDERATED: Final = Reject("the room is not federated")
_NOT_JOINED: Final = Reject("sender is not in the room")
_TOO_LITTLE_POWER: Final = Reject("sender has too little power to send this event")


def check_state_independent(
    event: Event,
    auth_events: Sequence[Event],
    rules: RoomRules | None = None,
    *,
    create: Event | None = None,
    rejected: Collection[EventId] = (),
) -> Verdict:
    """The rules about the create event itself and about what an event cites as its `auth_events`.

    `auth_events` are all the events named in `event.auth_event_ids`; `rejected` names those of them that were
    rejected themselves. `create` is the accepted create event of the room: needed where the room id implies it
    (version 12), because it is then not among the auth events.
    """
    rules = event.rules if rules is None else rules
    if event.type == "m.room.create":
        return _check_create(event, rules)
    if rules.room_id_is_create_hash:
        # spec: rooms/v12#authorisation-rules rule 2
        if create is None or create.event_id in rejected:
            return _NO_CREATE
        if create.type != "m.room.create" or create.event_id[1:] != event.room_id[1:]:
            return _WRONG_CREATE
    return _check_auth_events(event, auth_events, rules, rejected)


def _check_create(event: Event, rules: RoomRules) -> Verdict:
    content = event.content
    if event.prev_event_ids:
        return Reject("create event has prev_events")
    if rules.room_id_is_create_hash:
        if "room_id" in event.json:
            return Reject("create event has a room_id")
    elif _domain(event.room_id) != _domain(event.sender):
        return Reject("domains of room_id and sender differ")
    if "room_version" in content:
        version = content["room_version"]
        if not isinstance(version, str) or version not in ROOM_VERSIONS:
            return Reject("unknown room version")
    if rules.creator_in_content_required and "creator" not in content:
        return Reject("create event has no creator")
    if rules.privileged_creators and "additional_creators" in content:
        additional = content["additional_creators"]
        if not isinstance(additional, list) or not all(is_user_id(user_id) for user_id in additional):
            return Reject("additional_creators is not a list of user ids")
    return ACCEPT


def _check_auth_events(
    event: Event, auth_events: Sequence[Event], rules: RoomRules, rejected: Collection[EventId]
) -> Verdict:
    allowed = frozenset(auth_keys_for(rules, event.type, event.sender, event.state_key, event.content))
    cited: set[tuple[str, str]] = set()
    for auth_event in auth_events:
        if auth_event.state_key is None:
            return Reject("an auth event is not a state event")
        key = (auth_event.type, auth_event.state_key)
        if key in cited:
            return Reject("two auth events have the same type and state key")
        if key not in allowed:
            return Reject("an auth event does not belong to the selection for this event")
        if auth_event.event_id in rejected:
            return Reject("an auth event was rejected")
        if auth_event.room_id != event.room_id:
            return Reject("an auth event is of another room")
        cited.add(key)
    if len(set(event.auth_event_ids)) != len(event.auth_event_ids):
        return Reject("an auth event is cited twice")
    if len(auth_events) != len(event.auth_event_ids):
        return Reject("an auth event is missing")
    if not rules.create_not_in_auth_events and CREATE not in cited:
        return Reject("no create event among the auth events")
    return ACCEPT


def check_state_dependent(event: Event, lookup: StateLookup, power: PowerLevels | None = None) -> Verdict:
    """The rules that depend on room state, asked of the state behind `lookup`.

    `power` are the levels of that same state, where the caller has them parsed already.
    """
    # spec: server-server-api#authorisation-rules
    if event.type == "m.room.create":
        return ACCEPT
    rules = event.rules
    create = lookup("m.room.create", "")
    if create is None:
        return _NO_CREATE
    if rules.room_id_is_create_hash and create.room_id != event.room_id:
        return _WRONG_CREATE
    sender = event.sender
    if create.content.get("m.federate") is False and _domain(sender) != _domain(create.sender):
        return _UNFEDERATED
    if rules.aliases_authorised_by_domain and event.type == "m.room.aliases":
        return _check_aliases(event)
    if event.type == MEMBER:
        return check_membership(event, create, lookup, power)
    member = lookup(MEMBER, sender)
    if member is None or member.content.get("membership") != "join":
        return _NOT_JOINED
    if power is None:
        power = parse_power_levels(lookup(*POWER_LEVELS), create, rules)
    sender_level = power.user(sender)
    if event.type == THIRD_PARTY_INVITE:
        return ACCEPT if sender_level >= power.invite else Reject("sender has too little power to invite")
    if sender_level < power.event(event.type, event.state_key is not None):
        return _TOO_LITTLE_POWER
    if event.state_key is not None:
        return _check_state_event(event, lookup, create, power)
    if rules.redaction_authorised_by_rules and event.type == "m.room.redaction":
        return _check_redaction(event, sender_level, power)
    return ACCEPT


def _check_state_event(event: Event, lookup: StateLookup, create: Event, power: PowerLevels) -> Verdict:
    state_key = event.state_key
    if state_key is not None and state_key.startswith("@") and state_key != event.sender:
        return Reject("state_key is another user's id")
    if event.type == "m.room.power_levels":
        return check_power_levels_event(event, lookup(*POWER_LEVELS), create, power)
    if event.rules.redaction_authorised_by_rules and event.type == "m.room.redaction":
        return _check_redaction(event, power.user(event.sender), power)
    return ACCEPT


def _check_aliases(event: Event) -> Verdict:
    # spec: rooms/v1#authorisation-rules
    if event.state_key is None:
        return Reject("aliases event has no state_key")
    if event.state_key != _domain(event.sender):
        return Reject("aliases are not of the sender's server")
    return ACCEPT


def _check_redaction(event: Event, sender_level: int, power: PowerLevels) -> Verdict:
    # spec: rooms/v1#authorisation-rules
    if sender_level >= power.redact:
        return ACCEPT
    if event.redacts is not None:
        domain = _domain(event.redacts)
        if domain and domain == _domain(event.event_id):
            return ACCEPT
    return Reject("sender may not redact events of other servers")


def _domain(identifier: str) -> str:
    """Like ids.domain_of, but '' where there is none: ids of state and content may be of any shape here."""
    return identifier.partition(":")[2]
