"""What is asked of a search, and where its pages begin and end: tokens, about how many results there are, how each fits.

# spec: client-server-api#server-side-search
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from homeserver.http.errors import invalid_param
from homeserver.rooms.reads.reading import Filter, Found
from homeserver.store.client_events import ClientEvent
from homeserver.store.search import text_in, words_of
from homeserver.store.search_hits import NEWEST_PLACE, Hit

# The order of the answer: a window's top and how much of it was shown. Then the window's end where it has one, the
# estimate that the first page gave, and the room or the sender of a group.
_TOKEN = re.compile(
    r"s(\d{1,19})_(\d{1,4})(?:_b(\d{1,19}))?(?:_c(\d{1,12}))?(?:_([ru])(\d{1,18}))?", re.ASCII
)
_KEYS = {"m.room.message": "body", "m.room.name": "name", "m.room.topic": "topic"}
# spec: client-server-api#server-side-search gives no unit: any number, higher is closer. Okapi BM25's constants.
_K1, _B, _USUAL_LENGTH = 1.2, 0.75, 16
_HIGHLIGHTS_MOST = 50


@dataclass(frozen=True, slots=True)
class ContextAsked:
    """How much around each result."""

    before: int
    after: int
    profiles: bool


@dataclass(frozen=True, slots=True)
class SearchAsked:
    """A search, as the client gave it."""

    term: str
    keys: frozenset[str]
    by_rank: bool
    limit: int
    wanted: Filter
    senders: frozenset[str] | None = None
    groups: tuple[str, ...] = ()
    context: ContextAsked | None = None
    with_state: bool = False
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Where a page begins: at the newest, or where a token says."""

    top: int = NEWEST_PLACE
    skip: int = 0
    bottom: int | None = None
    count: int | None = None
    room_nid: int | None = None
    sender_nid: int | None = None


@dataclass(slots=True)
class Window:
    """Events that fit and that the searcher may see, in the order of the answer."""

    top: int  # it holds what is before this
    hits: list[tuple[Hit, Found]] = field(default_factory=list)
    rest: int | None = None  # and the next one what is before this
    count: int = 0  # about how many there are in all windows
    ranks: dict[int, float] = field(default_factory=dict)


def parse_token(token: str | None) -> Start:
    """400 M_INVALID_PARAM where it is none."""
    if token is None:
        return Start()
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise invalid_param("next_batch is not a token of a search")
    top, skip, bottom, count, group, nid = found.groups()
    if int(top) > NEWEST_PLACE or int(bottom or 0) > NEWEST_PLACE:
        raise invalid_param("next_batch is not a token of a search")
    return Start(
        int(top),
        int(skip),
        int(bottom) if bottom else None,
        int(count) if count else None,
        int(nid) if group == "r" else None,
        int(nid) if group == "u" else None,
    )


def next_token(window: Window, end: int, start: Start, *, by_rank: bool) -> str | None:
    """Where the next page begins, after ``end`` of a window were shown; None where nothing is left."""
    group = "" if start.room_nid is None else f"_r{start.room_nid}"
    group = group if start.sender_nid is None else f"_u{start.sender_nid}"
    rest = f"_c{window.count}{group}"
    if end < len(window.hits):
        if not by_rank:
            return f"s{window.hits[end - 1][0].place}_0{rest}"
        return f"s{window.top}_{end}{_bottom(window)}{rest}"
    return None if window.rest is None else f"s{window.rest}_0{rest}"


def _bottom(window: Window) -> str:
    return "" if window.rest is None else f"_b{window.rest}"


def group_token(
    window: Window, group: str, of_group: Sequence[int], end: int, *, by_rank: bool
) -> str | None:
    """As :func:`next_token`, for what is left of a group (``r`` or ``u`` and its number).

    ``of_group``: where in the window the group's results are. Those before ``end`` were shown.
    """
    shown = [place for place in of_group if place < end]
    if len(shown) < len(of_group):
        if by_rank:
            return f"s{window.top}_{len(shown)}{_bottom(window)}_{group}"
        return f"s{window.hits[shown[-1]][0].place}_0_{group}"
    return None if window.rest is None else f"s{window.rest}_0_{group}"


def estimate(positions: Sequence[int], upto: int) -> int:
    """About how many fit in all, by the positions of the newest of them: as if they were strewn evenly over the log.

    Counting them would mean to go through all, and the specification is content with an approximate number.
    """
    placed = [pos for pos in positions if pos > 0]  # what came as history says nothing of how much there is
    span = max(upto - min(placed, default=0), 1)
    return max(len(positions), len(placed) * upto // span)


def highlights(term: str) -> list[str]:
    """As they were typed: clients look for them in what they show."""
    return list(dict.fromkeys(re.findall(r"\w+", term.casefold())))[:_HIGHLIGHTS_MOST]


def rank_of(event: ClientEvent, phrases: Sequence[Sequence[str]]) -> float:
    """How closely a text fits, from 0 to 1: how often each word stands in it, for its length."""
    content = event.content_dict()
    words = words_of(text_in(content, _KEYS[event.type]))
    total = 0.0
    for phrase in phrases:
        exact = sum(word in phrase for word in words)
        near = sum(word not in phrase and word.startswith(phrase[-1]) for word in words)
        times = exact + near / 2
        total += times / (times + _K1 * (1 - _B + _B * len(words) / _USUAL_LENGTH))
    return round(total / max(len(phrases), 1), 6)
