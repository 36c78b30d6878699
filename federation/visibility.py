"""Who may see an event: the history visibility decision, given the state around the event.

Pure: the caller brings what the room's state said before the event and whether the user joined afterwards. What is
asked for each event of each timeline is `may_see`; `may_see_event` adds the two kinds of events that are judged by
the state before *or* after them.

Spec anchor: client-server-api#room-history-visibility.
"""

from typing import Any, Final

from federation.event import Event

DEFAULT_VISIBILITY: Final = "shared"
_KNOWN: Final = frozenset(("world_readable", "shared", "invited", "joined"))


def visibility_of(content: Any) -> str:
    """The visibility that an `m.room.history_visibility` content (or None, where there is none) puts in force."""
    # spec: client-server-api#room-history-visibility
    value = content.get("history_visibility") if isinstance(content, dict) else None
    return value if isinstance(value, str) and value in _KNOWN else DEFAULT_VISIBILITY


def may_see(visibility: str, membership: Any, joined_later: bool) -> bool:
    """Whether a user may see an event.

    `visibility` and `membership` are as they were at the event (`membership` None: never seen in the room);
    `joined_later` tells whether the user joined the room at any point after the event was sent.
    """
    # spec: client-server-api#room-history-visibility
    if visibility == "world_readable" or membership == "join":
        return True
    if visibility == "shared":
        return joined_later
    return visibility == "invited" and membership == "invite"


def may_see_event(event: Event, user_id: str, visibility: str, membership: Any, joined_later: bool) -> bool:
    """As `may_see`, where `visibility` and `membership` are those *before* the event.

    A change of the visibility, and the user's own membership event, can be seen when either side of it allows.
    `joined_later` does not count this event itself.
    """
    if may_see(visibility, membership, joined_later):
        return True
    if event.state_key == "" and event.type == "m.room.history_visibility":
        return may_see(visibility_of(event.content), membership, joined_later)
    if event.type == "m.room.member" and event.state_key == user_id:
        return may_see(visibility, event.content.get("membership"), joined_later)
    return False
