"""The ground of every story: alice lives on the resident server, which makes the room; bob lives on the other one."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

from twisted.trial import unittest

from tests.interop.client import Client
from tests.interop.pair import Side, agree, pair

RESIDENTS = ("chaos", "synapse")
VERSIONS = ("6", "9", "10", "11", "12")


class Story(unittest.TestCase):
    """Subclasses are made by `build_stories`, which sets the class attributes."""

    database: ClassVar[str] = ""
    resident: ClassVar[str] = ""
    version: ClassVar[str] = "11"

    def setUp(self) -> None:
        self.pair = pair(self.database)
        self.here: Side = self.pair[self.resident]
        self.there: Side = self.pair.other(self.here)
        self.alice = self.register(self.here, "alice")
        self.bob = self.register(self.there, "bob")

    def tearDown(self) -> None:
        self.assertEqual(self.pair.new_errors(), [], "CHAOS logged errors")

    def register(self, side: Side, name: str) -> Client:
        client = self.pair.register(side, name)
        self.addCleanup(client.close)
        return client

    def create_room(self, creator: Client | None = None, **fields: Any) -> str:
        """A room of this story's version."""
        fields.setdefault("preset", "public_chat")
        fields.setdefault("room_version", self.version)
        return (creator or self.alice).create_room(**fields)

    def meet(self, **fields: Any) -> str:
        """A room of alice's in which bob is, too; both have seen it."""
        room_id = self.create_room(**fields)
        self.bob.join(room_id, via=self.here.server_name)
        self.bob.is_in(room_id, "join")
        self.alice.sees_member(room_id, self.bob.user_id, "join")
        return room_id

    def exchange(self, room_id: str, text: str, *pairs: tuple[Client, Client]) -> None:
        """A message each way, seen."""
        for sender, reader in pairs or self.both_ways():
            event = reader.sees(room_id, sender.send(room_id, text))
            self.assertEqual((event["sender"], event["content"]["body"]), (sender.user_id, text))

    def both_ways(self) -> tuple[tuple[Client, Client], tuple[Client, Client]]:
        """For what is told once from each side: who does something, and who has to notice."""
        return (self.alice, self.bob), (self.bob, self.alice)

    def agree(self, room_id: str, *clients: Client, history: bool = True) -> None:
        """Both servers give the same state and the same events."""
        agree(room_id, *(clients or (self.alice, self.bob)), history=history)


def build_stories(database: str, *stories: type[Story]) -> dict[str, type[Story]]:
    """The test cases of one database by name: each story once for each resident, and for each room version it wants."""
    cases = {}
    for story in stories:
        for resident in RESIDENTS:
            for version in getattr(story, "versions", (story.version,)):
                suffix = f"InVersion{version}" if hasattr(story, "versions") else ""
                name = f"{story.__name__}With{resident.title()}AsResident{suffix}"
                attributes = {"database": database, "resident": resident, "version": version}
                cases[name] = type(name, (story,), attributes)
    return cases


def segment(text: str) -> str:
    """One segment of a path."""
    return quote(text, safe="")
