"""Who and what is in the sample community. Plain data; `making` brings it to life."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

PASSWORD: Final = "chaos"  # noqa: S105 (it is shown to everybody who starts a development server)


@dataclass(frozen=True, slots=True)
class Person:
    localpart: str
    name: str


@dataclass(frozen=True, slots=True)
class Channel:
    key: str
    name: str
    topic: str
    kind: Literal["text", "voice", "announcement", "forum"] = "text"
    suggested: bool = True


@dataclass(frozen=True, slots=True)
class Server:
    """A space. The first of its people owns it."""

    key: str
    alias: str
    name: str
    topic: str
    people: tuple[str, ...]
    moderators: tuple[str, ...]
    channels: tuple[Channel, ...]


@dataclass(frozen=True, slots=True)
class Message:
    key: str
    channel: str
    sender: str
    text: str
    replies_to: str = ""
    edited_to: str = ""
    reactions: tuple[tuple[str, str], ...] = ()  # who, with what


PEOPLE: Final = (
    Person("juniper", "Juniper Vale"),
    Person("otto", "Otto Fennimore"),
    Person("mika", "Mika Moonlamp"),
    Person("quill", "Professor Quill"),
    Person("bee", "Bee Okafor"),
)

# With the selector that asks for the picture rather than the letter.
_HEART: Final = "\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}"
_EVERYBODY: Final = tuple(person.localpart for person in PEOPLE)

SERVERS: Final = (
    Server(
        key="workshop",
        alias="night-owl-workshop",
        name="Night Owl Workshop",
        topic="People who build odd things after dark. Solder burns are a sign of love.",
        people=_EVERYBODY,
        moderators=("otto",),
        channels=(
            Channel(
                "workshop/noticeboard",
                "noticeboard",
                "Open evenings, tool repairs, lost mittens. Only hosts write here.",
                kind="announcement",
            ),
            Channel("workshop/workbench", "workbench", "What are you making? What caught fire?"),
            Channel("workshop/show-and-tell", "show-and-tell", "Finished, or finished enough."),
            Channel(
                "workshop/couch",
                "late-night couch",
                "Drop in, talk nonsense, drop out.",
                kind="voice",
                suggested=False,
            ),
        ),
    ),
    Server(
        key="annex",
        alias="tabletop-annex",
        name="The Tabletop Annex",
        topic="Board games, dice, and long arguments about line of sight.",
        people=("quill", "bee", "mika", "juniper", "otto"),
        moderators=("bee",),
        channels=(
            Channel("annex/lobby", "lobby", "Say hello. Spoilers go elsewhere."),
            Channel(
                "annex/game-night", "game-night", "Thursdays at eight. Who is in, and who brings snacks?"
            ),
            Channel("annex/rules-lawyers", "rules-lawyers", "Page numbers or it did not happen."),
        ),
    ),
)

TALK: Final = (
    Message(
        "open-evening",
        "workshop/noticeboard",
        "juniper",
        "Open evening on Friday from seven. The big lathe is back from repair; please be gentle with it.",
        reactions=(("bee", "\N{PARTY POPPER}"), ("mika", "\N{PARTY POPPER}")),
    ),
    Message(
        "clock",
        "workshop/workbench",
        "otto",
        "The cuckoo clock runs at last. It runs backwards, but it runs.",
        reactions=(("juniper", "\N{FACE WITH TEARS OF JOY}"),),
    ),
    Message(
        "backwards",
        "workshop/workbench",
        "bee",
        "So the cuckoo goes back in and takes its words with it? I want one.",
        replies_to="clock",
    ),
    Message(
        "escapement",
        "workshop/workbench",
        "mika",
        "Could the escapement be mirrored? Mine did that when I put the pallet fork in upside down. Page 24 of the manual.",
        edited_to="Could the escapement be mirrored? Mine did that when I put the pallet fork in upside down. "
        "Page 42 of the manual.",
    ),
    Message(
        "fork", "workshop/workbench", "otto", "It was the pallet fork. I am not saying for how many evenings."
    ),
    Message(
        "lamp",
        "workshop/show-and-tell",
        "mika",
        "Moon lamp, final version: it follows the real phases and sulks when it is cloudy.",
        reactions=(("juniper", _HEART), ("quill", _HEART)),
    ),
    Message("hello", "annex/lobby", "quill", "Welcome to the Annex. Shoes off, dice out, phones face down."),
    Message(
        "thursday",
        "annex/game-night",
        "bee",
        "Thursday at eight: who is in? I have the expansion with the sea monsters.",
        reactions=(("otto", "\N{THUMBS UP SIGN}"), ("mika", "\N{OCTOPUS}")),
    ),
    Message(
        "late",
        "annex/game-night",
        "juniper",
        "In, but half an hour late. Do not let Otto be the merchant again.",
    ),
    Message(
        "ruling",
        "annex/rules-lawyers",
        "quill",
        "For the record: a sea monster blocks line of sight, but only while it is awake. Page 17.",
    ),
)
