"""What an answer says of one room, and how it is written. proposal: MSC4186 (room results)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from homeserver.store.client_events import ClientEvent
from homeserver.store.placement import Membership
from homeserver.store.sync_reads import HEROES, Summary
from homeserver.stream.index import Standing
from homeserver.stream.tokens import timeline_token
from homeserver.sync.serialise import encode
from homeserver.sync.sliding.lists import Relevant
from homeserver.sync.sliding.required import Required
from homeserver.sync.timelines import text_in
from homeserver.sync.types import Counts

NULL = b"null"


@dataclass(frozen=True, slots=True)
class RoomOrder:
    """A room that something may have to be told of, and what the client has of it."""

    room_nid: int
    standing: Standing
    relevant: Relevant
    since: int  # it has everything up to here
    fresh: bool = False  # it has nothing
    wide: bool = False  # it is to get more of the timeline than what is new
    had: frozenset[Required] = frozenset()  # the state that it has: what else is wanted now is told in full
    have: int = 0  # so many of the newest events it has
    live: bool = False  # it had everything up to the request's position, so the log may know what is new

    @property
    def added(self) -> frozenset[Required]:
        """The state that it is to get now for the first time."""
        return self.relevant.wishes - self.had


class Hero(NamedTuple):
    """Somebody who may name a room."""

    user_id: str
    member: ClientEvent | None

    def write(self) -> bytes:
        parts = [b'{"user_id":', encode(self.user_id)]
        if self.member is not None:
            for name in ("displayname", "avatar_url"):
                text = text_in(self.member, name)
                if text is not None:
                    parts += [b',"%b":' % name.encode(), encode(text)]
        return b"".join(parts) + b"}"


@dataclass(frozen=True, slots=True)
class RoomSummary:
    """How many are in a room, and who could name it, for every member."""

    counts: Summary
    heroes: Mapping[str, Hero]

    def members(self, user_id: str) -> bytes:
        """As members of a room result, as one member of the room gets them."""
        body = b',"joined_count":%d,"invited_count":%d' % (self.counts.joined, self.counts.invited)
        if self.counts.unnamed:
            heroes = [self.heroes.get(one) or Hero(one, None) for one in self.counts.heroes(user_id)]
            body += b',"heroes":[%b]' % b",".join(hero.write() for hero in heroes[:HEROES])
        return body


@dataclass(slots=True)
class RoomNews:
    """What is new of a room; everything is JSON already."""

    timeline: Sequence[bytes] = ()
    limited: bool = False
    before: int = 0  # the position before the first event, from where history can be asked for
    live: int = 0
    state: Sequence[bytes] = ()
    initial: bool = False
    wide: bool = False
    name: bytes | None = None  # None: as before
    avatar: bytes | None = None
    summary: RoomSummary | None = None
    stripped: Sequence[bytes] | None = None
    gone: bool = False
    read: bool = False  # the user has read something there: the counts are news
    members: dict[str, int] = field(default_factory=dict)  # membership events that the client has after this
    shown: Sequence[int] = ()  # the events of the timeline

    @property
    def told(self) -> bool:
        """Whether there is anything to say."""
        return bool(
            self.timeline
            or self.state
            or self.initial
            or self.wide
            or self.limited
            or self.gone
            or self.stripped is not None
            or self.name is not None
            or self.avatar is not None
            or self.summary is not None
        )


def names_of(events: Iterable[ClientEvent]) -> tuple[bytes | None, bytes | None]:
    """A room's name and picture, where they are among some state events of it."""
    name = avatar = None
    for event in events:
        if event.state_key != "":
            continue
        if event.type == "m.room.name":
            name = _text(event, "name")
        elif event.type == "m.room.avatar":
            avatar = _text(event, "url")
    return name, avatar


def _text(event: ClientEvent, member: str) -> bytes:
    text = text_in(event, member)
    return NULL if text is None else encode(text)


def made_up_leave(user_id: str, room_id: str, now_ms: int) -> bytes:
    """A user's own membership, of a room in which they are nothing any more although no event says so."""
    return encode(
        {
            "type": "m.room.member",
            "state_key": user_id,
            "sender": user_id,
            "content": {"membership": "leave"},
            "origin_server_ts": now_ms,
            "event_id": "$" + sha256(f"{room_id} {user_id} {now_ms}".encode()).hexdigest(),
        }
    )


def stub(event_type: str, state_key: str) -> bytes:
    """Of state that is gone."""
    return encode({"type": event_type, "state_key": state_key})


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around a room's news."""

    membership: Membership
    bump: int
    relevant: Relevant
    direct: bool | None  # None: not to be told
    counts: Counts | None  # None: the user is not in the room
    stable: bool


def write_room(news: RoomNews, frame: Frame, user_id: str) -> bytes:
    """A room result. Lists that may be empty are there all the same: clients go through them without looking."""
    # The names of the experimental form and of the accepted one stand side by side where that harms nobody.
    parts = [b'{"membership":"%b","bump_stamp":%d' % (frame.membership.word.encode(), frame.bump)]
    if frame.relevant.lists:
        parts.append(b',"lists":' + encode(list(frame.relevant.lists)))
    if news.initial:
        parts.append(b',"initial":true')
    if frame.direct is not None:
        parts.append(b',"is_dm":true' if frame.direct else b',"is_dm":false')
    if news.stripped is not None:
        name = b"stripped_state" if frame.stable else b"invite_state"
        parts.append(b',"%b":[%b]' % (name, b",".join(news.stripped)))
        if not frame.stable and frame.membership == Membership.KNOCK:
            parts.append(b',"knock_state":[%b]' % b",".join(news.stripped))
        return b"".join(parts) + b',"required_state":[],"timeline":[]}'
    if news.name is not None:
        parts.append(b',"name":' + news.name)
    if news.avatar is not None:
        parts.append(b',"avatar":' + news.avatar)
    if news.summary is not None:
        parts.append(news.summary.members(user_id))
    if frame.counts is not None:
        parts.append(_counts(frame.counts))
    if news.wide:
        parts.append(b',"expanded_timeline":true' if frame.stable else b',"unstable_expanded_timeline":true')
    parts.append(
        b',"required_state":[%b],"timeline":[%b],"limited":%b,"num_live":%d,"prev_batch":"%b"}'
        % (
            b",".join(news.state),
            b",".join(news.timeline),
            b"true" if news.limited else b"false",
            news.live,
            timeline_token(news.before).encode(),
        )
    )
    return b"".join(parts)


def _counts(counts: Counts) -> bytes:
    notifications = counts.notification_count + sum(one.notification_count for one in counts.threads.values())
    highlights = counts.highlight_count + sum(one.highlight_count for one in counts.threads.values())
    return b',"notification_count":%d,"highlight_count":%d' % (notifications, highlights)
