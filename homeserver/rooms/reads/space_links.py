"""The children of a space in order: from child events to where they lead. Pure.

spec: client-server-api#ordering-of-children-within-a-space
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from federation.errors import Malformed
from federation.ids import RoomId, ServerName, parse_room_id, parse_server_name

VIA_MOST = 20

_ORDER = re.compile(r"[\x20-\x7e]{1,50}")


class Link(NamedTuple):
    """A child: which room, and servers to ask for it."""

    room_id: RoomId
    via: tuple[ServerName, ...]


def links_of(
    children: Iterable[Mapping[str, Any]], *, suggested_only: bool
) -> tuple[list[Link], list[Mapping[str, Any]]]:
    """The valid children of a space in their order, and the events that say so."""
    found: list[tuple[tuple[bool, str, int, str], Link, Mapping[str, Any]]] = []
    for child in children:
        content = child["content"]
        via = _servers(content.get("via"))
        if not via or (suggested_only and content.get("suggested") is not True):
            continue
        try:
            room_id = parse_room_id(child["state_key"])
        except Malformed:
            continue
        order = content.get("order")
        is_ordered = isinstance(order, str) and _ORDER.fullmatch(order) is not None
        place = (not is_ordered, order if is_ordered else "", child["origin_server_ts"], room_id)
        found.append((place, Link(room_id, via), child))
    found.sort(key=lambda one: one[0])
    return [link for _, link, _ in found], [child for _, _, child in found]


def _servers(value: Any) -> tuple[ServerName, ...]:
    found: list[ServerName] = []
    for name in value[:VIA_MOST] if isinstance(value, list) else ():
        try:
            found.append(parse_server_name(name))
        except Malformed:
            continue
    return tuple(found)
