"""A mail about what somebody has not read: as plain text and as HTML. Pure.

What it shows was chosen by other people: names, texts. In HTML it is escaped, in plain text it stays on its line.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final
from urllib.parse import quote

from federation.event import Event
from homeserver.push.notice import Subject

ROOMS_MOST: Final = 10
LINES_MOST: Final = 5
_TEXT_MOST: Final = 200
_NAME_MOST: Final = 80
_GAPS: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# Marks that turn the direction of what stands beside them.
_TURNS: Final = re.compile(r"[\u202a-\u202e\u2066-\u2069\u200e\u200f]")


@dataclass(frozen=True, slots=True)
class Letter:
    """What is handed to a mailer."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class _Line:
    sender: str
    text: str


@dataclass(frozen=True, slots=True)
class _Room:
    name: str
    link: str
    lines: Sequence[_Line]
    more: int


class LetterWriter:
    """Fills the templates in."""

    def __init__(self, server_name: str) -> None:
        folder = files("homeserver.push") / "templates"
        # Where no mail is sent no start waits for it.
        jinja2: Any = importlib.import_module("jinja2")
        # COMPAT(Jinja2): two environments, for what is escaped and what is not is a property of these.
        html = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        text = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined)
        self._html = html.from_string((folder / "mail.html").read_text("utf-8"))
        self._text = text.from_string((folder / "mail.txt").read_text("utf-8"))
        self._server_name = server_name

    def write(self, user_id: str, subjects: Sequence[Subject], unsubscribe: str) -> Letter:
        """A letter about some events, the oldest first; there is at least one."""
        by_room: dict[str, list[Subject]] = {}
        for subject in subjects:
            by_room.setdefault(subject.event.room_id, []).append(subject)
        rooms = [_room(some) for some in list(by_room.values())[:ROOMS_MOST]]
        values = {
            "intro": _intro(rooms, len(subjects), len(by_room)),
            "rooms": rooms,
            "more_rooms": len(by_room) - len(rooms),
            "server_name": self._server_name,
            "user_id": user_id,
            "unsubscribe": unsubscribe,
        }
        subject_line = f"[{self._server_name}] {values['intro']}"
        return Letter(subject_line, self._text.render(values), self._html.render(values))


def _intro(rooms: Sequence[_Room], messages: int, room_count: int) -> str:
    where = rooms[0].name if room_count == 1 else f"{room_count} rooms"
    if messages == 1:
        return f"{rooms[0].lines[0].sender} has something for you in {where}"
    return f"{messages} messages that you have not read in {where}"


def _room(subjects: Sequence[Subject]) -> _Room:
    newest = subjects[-1]
    event = newest.event
    name = one_line(newest.room_name or newest.room_alias or "a room", _NAME_MOST)
    # spec: appendices#matrixto-navigation
    link = f"https://matrix.to/#/{quote(event.room_id, safe='')}/{quote(event.event_id, safe='')}"
    shown = subjects[-LINES_MOST:]
    lines = [_Line(one_line(one.sender_name or one.event.sender, _NAME_MOST), say(one)) for one in shown]
    return _Room(name, link, lines, len(subjects) - len(shown))


def say(subject: Subject) -> str:
    """An event in a few words."""
    event: Event = subject.event
    if event.type == "m.room.member" and subject.is_target:
        return "invites you"
    if event.type == "m.room.encrypted":
        return "an encrypted message"
    if event.type == "m.call.invite":
        return "calls you"
    body = event.content.get("body")
    if event.type == "m.room.message" and isinstance(body, str) and body.strip():
        return one_line(body, _TEXT_MOST)
    return "something new"


def one_line(text: str, most: int) -> str:
    """A text of somebody's, without what would leave its line or turn its direction."""
    clean = _GAPS.sub(" ", _TURNS.sub("", text)).strip()
    return clean if len(clean) <= most else clean[: most - 1] + "…"
