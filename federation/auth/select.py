"""Which state events authorise an event.

Spec anchor: server-server-api#auth-events-selection. The answer depends only on the event's own fields, never on
the room's state, so that a server that builds an event and a server that checks one get the same list.
"""

from collections.abc import Callable, Mapping
from typing import Any

from federation.event import Event
from federation.versions import RoomRules

StateLookup = Callable[[str, str], Event | None]
StateKey = tuple[str, str]

CREATE: StateKey = ("m.room.create", "")
POWER_LEVELS: StateKey = ("m.room.power_levels", "")
JOIN_RULES: StateKey = ("m.room.join_rules", "")
MEMBER = "m.room.member"
THIRD_PARTY_INVITE = "m.room.third_party_invite"
AUTHORISED_BY = "join_authorised_via_users_server"


def auth_keys_for(
    rules: RoomRules, event_type: str, sender: str, state_key: str | None, content: Mapping[str, Any]
) -> list[StateKey]:
    """The (type, state_key) pairs whose current state events belong in `auth_events`, without repetition."""
    # spec: server-server-api#auth-events-selection
    if event_type == "m.room.create":
        return []
    keys = [POWER_LEVELS, (MEMBER, sender)]
    if not rules.create_not_in_auth_events:
        keys.insert(0, CREATE)
    if event_type == MEMBER:
        _add_member_keys(keys, rules, sender, state_key, content)
    return keys


def _add_member_keys(
    keys: list[StateKey], rules: RoomRules, sender: str, target_id: str | None, content: Mapping[str, Any]
) -> None:
    if target_id is not None and target_id != sender:
        keys.append((MEMBER, target_id))
    membership = content.get("membership")
    if membership in ("join", "invite", "knock"):
        keys.append(JOIN_RULES)
    if membership == "invite":
        token = third_party_token(content)
        if token is not None:
            keys.append((THIRD_PARTY_INVITE, token))
    elif membership == "join" and rules.restricted_join:
        authoriser_id = content.get(AUTHORISED_BY)
        if isinstance(authoriser_id, str) and (MEMBER, authoriser_id) not in keys:
            keys.append((MEMBER, authoriser_id))


def third_party_token(content: Mapping[str, Any]) -> str | None:
    """`content.third_party_invite.signed.token` where all of that path has the right types."""
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, dict) else None
    token = signed.get("token") if isinstance(signed, dict) else None
    return token if isinstance(token, str) else None
