"""Where the scenes play: two servers under watch, alice and bob, and somebody of evil.example who can sign too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from twisted.trial.unittest import SkipTest

from federation.canonical import encode_checked
from federation.ids import ServerName
from federation.xmatrix import build
from homeserver.http.transport import PeerRequest, PeerResponse
from tests.conformance.mutants import mutants, uri_mutants
from tests.conformance.specification import CLIENT_SERVER, SERVER_SERVER, Specification, find_folder
from tests.conformance.watch import Watch, WatchedNet
from tests.federation.people import A, B, NetCase
from tests.support.federation import NetServer, Stranger
from tests.support.http import Answer

FEDERATION = "/_matrix/federation/v1"
EVIL = "evil.example"
ALICE, BOB = f"@alice:{A}", f"@bob:{B}"
APIS = (SERVER_SERVER, CLIENT_SERVER)

Scene = Callable[["StageCase"], None]
_played: dict[tuple[str, Scene], Watch] = {}
_corrupted: set[tuple[str, str]] = set()


class StageCase(NetCase):
    """Plays scenes, each of them once in this process and on each database, on servers of its own."""

    net: WatchedNet
    eve: Stranger

    def setUp(self) -> None:
        folder = find_folder()
        if folder is None:
            raise SkipTest("the files of the Matrix specification are not here (see MATRIX_SPEC_DIR)")
        self.specification = Specification(folder, APIS)

    def play(self, scene: Scene) -> Watch:
        """What was seen in a scene."""
        key = self.dialect, scene
        if key not in _played:
            watch = Watch(self.specification)
            self.open(watch)
            scene(self)
            self.net.settle()
            _played[key] = watch
            self._corrupt(watch)
        return _played[key]

    def open(self, watch: Watch) -> None:
        """A network of its own, with everybody in place."""
        self.net = WatchedNet(self, watch)
        self.a, self.b = self.server(A), self.server(B)
        self.alice, self.bob = self.a.register("alice"), self.b.register("bob")
        self.eve = self.net.stranger(EVIL)

    def _corrupt(self, watch: Watch) -> None:
        """Send every kind of request that the scene had once more, with something wrong in it."""
        for name, (origin, request) in list(watch.bodies.items()):
            if (self.dialect, name) in _corrupted or request.destination not in self.net.servers:
                continue
            _corrupted.add((self.dialect, name))
            for number, body in enumerate(mutants(msgspec.json.decode(request.body or b"{}"))):
                # Of a transaction that was answered already nothing would be read.
                uri = f"{request.uri}.{number}" if "/send/" in request.uri else request.uri
                self._send_again(origin, replace(request, uri=uri), body)
        for name, (origin, request) in list(watch.questions.items()):
            if (self.dialect, name) not in _corrupted and request.destination in self.net.servers:
                _corrupted.add((self.dialect, name))
                for uri in uri_mutants(request.uri):
                    self._send_again(origin, replace(request, uri=uri), None)
        self.net.advance(1)

    def _send_again(self, origin: ServerName, request: PeerRequest, body: Any) -> None:
        encoded = None if body is None else msgspec.json.encode(body, order="deterministic")
        header = None
        if request.authorization is not None:
            header = build(
                self.net.servers[origin].signing_keys[0],
                method=request.method,
                uri=request.uri,
                destination=request.destination,
                canonical_body=encoded,
            )
        self.net.wait(self.net.carry_unseen(origin, replace(request, authorization=header, body=encoded)))

    # --- what scenes are made of ---------------------------------------------------------------------

    def server(self, name: str, **config: Any) -> NetServer:
        """With a folder whose place does not depend on where the process is."""
        return super().server(name, data_dir=Path(self.mktemp()).absolute(), **config)

    def create(self, server: NetServer, token: str, **body: Any) -> str:
        """As always, and the watch knows in which version."""
        room_id = super().create(server, token, **body)
        create = self.ok(server, token, "GET", f"/rooms/{quote(room_id)}/state/m.room.create")
        self.net.watch.know_room(room_id, create.get("room_version", "1"))
        return room_id

    def share(self, **body: Any) -> str:
        """A public room of alice and bob."""
        room_id = self.create(self.a, self.alice, preset="public_chat", **body)
        answer = self.join(self.b, self.bob, room_id, A)
        self.assertEqual(200, answer.status, answer.json)
        self.net.settle()
        return room_id

    def ask(self, method: str, uri: str, content: Any = None, *, of: str = A) -> tuple[int, Any]:
        """Bob's server asks alice's for what it would not ask by itself."""
        response = self.ask_raw(method, uri, content, of=of)
        return response.status, msgspec.json.decode(response.body)

    def ask_raw(self, method: str, uri: str, content: Any = None, *, of: str = A) -> PeerResponse:
        """The same where the answer is no JSON."""
        body = None if content is None else encode_checked(content, strict=False)
        key = self.b.signing_keys[0]
        header = build(key, method=method, uri=uri, destination=ServerName(of), canonical_body=body)
        request = PeerRequest(ServerName(of), method, uri, header, body)
        return self.net.wait(self.net.carry_unseen(self.b.name, request))

    def told(self, method: str, uri: str, content: Any = None, *, of: str = A) -> Any:
        """The same, which must succeed."""
        status, json = self.ask(method, uri, content, of=of)
        self.assertEqual(200, status, json)
        return json

    def denied(self, status: int, errcode: str, answer: tuple[int, Any]) -> None:
        """An answer to another server is this error."""
        self.assertEqual((status, errcode), (answer[0], answer[1].get("errcode")), answer[1])

    def open_call(self, server: NetServer, method: str, uri: str, body: Any = None) -> Answer:
        """Without a signature or a token."""
        return self.net.wait(server.http.call(method, uri, body))


def path(*segments: str) -> str:
    """Below the first version of the federation API."""
    return "/".join([FEDERATION, *(quote(one, safe="") for one in segments)])
