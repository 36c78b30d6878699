"""The specification's own examples are understood: events of every format, and answers of other servers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from federation.event import parse_untrusted
from federation.versions import ROOM_VERSIONS
from homeserver.http.transport import PeerRequest
from tests.conformance.specification import read_document
from tests.conformance.stage import EVIL, FEDERATION, StageCase
from tests.conformance.watch import PDU_FILES, Watch


def resolve(value: Any, folder: Path) -> Any:
    """An example with what it refers to; beside a reference, or in `allOf`, stands what is other than there."""
    if isinstance(value, list):
        return [resolve(one, folder) for one in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for part in value.get("allOf", ()):
        found.update(resolve(part, folder))
    if "$ref" in value:
        file = folder / value["$ref"]
        referred = resolve(read_document(file), file.parent)
        if not isinstance(referred, dict):
            return referred
        found.update(referred)
    found.update({key: resolve(one, folder) for key, one in value.items() if key not in ("allOf", "$ref")})
    return found


class Examples(StageCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder = self.specification.folder / "api" / "server-server"

    def example(self, name: str) -> Any:
        """Of a successful answer to an operation."""
        operation = next(one for one in self.specification.operations() if one.name == name)
        return resolve(operation.example_answer(), operation.file.parent)

    def tell(self, example: Any, _: PeerRequest) -> tuple[int, Any]:
        """An answer of evil.example."""
        return 200, example

    def test_events(self) -> None:
        for version, rules in ROOM_VERSIONS.items():
            file = self.folder / "examples" / f"pdu_{PDU_FILES[int(version)]}.json"
            if not file.exists():
                continue
            pdu = resolve(read_document(file), file.parent)
            event = parse_untrusted(pdu, rules)
            self.assertEqual(("m.room.message", "@alice:example.com"), (event.type, event.sender), version)
            self.assertEqual(len(pdu["prev_events"]), len(event.prev_event_ids))

    def test_answers(self) -> None:
        self.open(Watch(self.specification))
        for name in ("query/directory", "query/profile", "publicRooms", "hierarchy/{roomId}"):
            prefix = f"{FEDERATION}/{name.partition('/{')[0]}"
            self.eve.answers["GET", prefix] = partial(self.tell, self.example(f"GET {FEDERATION}/{name}"))
        found = self.ok(self.a, self.alice, "GET", f"/directory/room/{quote('#x:' + EVIL)}")
        self.assertEqual("!roomid1234:example.org", found["room_id"])
        profile = self.ok(self.a, self.alice, "GET", f"/profile/@john:{EVIL}")
        self.assertEqual("John Doe", profile["displayname"])
        page = self.ok(self.a, self.alice, "GET", "/publicRooms", None, {"server": EVIL})
        self.assertEqual(self.example(f"GET {FEDERATION}/publicRooms"), page)
        hierarchy = self.example(f"GET {FEDERATION}/hierarchy/{{roomId}}")
        room = f"/_matrix/client/v1/room_summary/{quote(hierarchy['room']['room_id'], safe='')}"
        answer = self.net.wait(self.a.start("GET", room, None, self.alice, {"via": [EVIL]}))
        self.assertEqual(200, answer.status, answer.json)
        self.assertEqual(hierarchy["room"]["name"], answer.json["name"])
        self.assertEqual([], self.net.watch.problems)
