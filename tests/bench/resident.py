"""A resident server that both implementations join alike: a room with thousands of members, signed by one key, over TLS.

It is `tests.support.peer.FakePeer` behind a socket. That way a room of ten thousand members takes seconds to make, and
CHAOS and Synapse are measured against the same other side, which answers as fast for the one as for the other. Who asks
for fewer members (`omit_members`) gets fewer.
spec: server-server-api#joining-rooms
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from twisted.python.failure import Failure

from federation.auth.select import StateKey
from federation.event import Event
from federation.ids import EventId, RoomId, ServerName
from federation.keyring import build_key_response
from federation.signing import sign_event
from federation.versions import ROOM_VERSIONS
from homeserver.http.transport import PeerRequest, PeerResponse
from tests.interop.authority import Wire
from tests.support.peer import FakePeer
from tests.support.peer_rooms import PeerRoom

VERSION = "11"
_DAY_MS = 24 * 3600 * 1000


class LargeRoom(PeerRoom):
    """A room whose members came one after the other. Only the newest state is kept, not one for each event."""

    def fill(self, members: int) -> None:
        """Let so many users of the resident server join."""
        for number in range(members):
            self.join(self.peer.user(f"member{number}"))

    def learn(self, event: Event) -> None:
        state = self.after.pop(self.head[0]) if self.head else {}
        if event.state_key is not None:
            state[event.key()] = event.event_id
        self.room_id = self.room_id or event.room_id
        self.events[event.event_id] = event
        self.head = [event.event_id]
        self.after = {event.event_id: state}

    def state_after(self, event_ids: Sequence[str]) -> Mapping[StateKey, EventId]:
        return next(iter(self.after.values()), {})

    def state_before(self, event_id: str) -> list[EventId]:
        # The only events that are asked about are those that joined last.
        return [one for one in self.state_after(()).values() if one != event_id]

    def join_answer(self, event: dict[str, Any], *, omit_members: bool) -> dict[str, Any]:
        """The state before a join; without members but the few that the specification wants, where asked for that."""
        joined = self.parse(event)
        state = dict(self.state_after(()))
        kept = [one for key, one in state.items() if not omit_members or key[0] != "m.room.member"]
        if omit_members:
            # The heroes of a room without a name.
            kept += [one for key, one in state.items() if key[0] == "m.room.member"][:5]
        answer = {
            "event": sign_event(joined.json, self.rules, self.peer.key),
            "members_omitted": omit_members,
            "origin": self.peer.server_name,
            "servers_in_room": [self.peer.server_name],
            "state": self._json(kept),
            "auth_chain": self._json(self.auth_chain(kept)),
        }
        self.learn(joined)
        return answer


class Resident(FakePeer):
    """The room's server: honest, and with the time of day."""

    asked_for_state = 0
    """How often somebody wanted the whole state of a room."""

    def create_large(self, members: int, version: str = VERSION) -> LargeRoom:
        """A public room with so many members beside its creator."""
        room = LargeRoom(self, ROOM_VERSIONS[version])
        if not room.rules.room_id_is_create_hash:
            room.room_id = RoomId(f"!room{members}x{len(self.rooms)}:{self.server_name}")
        creator = self.user()
        room.add("m.room.create", {"room_version": version}, state_key="")
        self.rooms[room.room_id] = room
        room.join(creator)
        users = {} if room.rules.privileged_creators else {creator: 100}
        room.add("m.room.power_levels", {"users": users}, state_key="")
        room.add("m.room.join_rules", {"join_rule": "public"}, state_key="")
        room.add("m.room.history_visibility", {"history_visibility": "shared"}, state_key="")
        room.fill(members)
        return room

    def answer(self, method: str, uri: str, body: bytes | None) -> PeerResponse:
        """What it says to one request."""
        found: list[Any] = []
        self.send(PeerRequest(self.server_name, method, uri, None, body)).addBoth(found.append)
        self.asked.clear()
        if isinstance(found[0], Failure):
            found[0].raiseException()
        response: PeerResponse = found[0]
        return response

    def _honest(self, request: PeerRequest) -> Any:
        parts = urlsplit(request.uri)
        path = [unquote(part) for part in parts.path.split("/")[1:]]
        if path[:3] == ["_matrix", "key", "v2"]:
            return build_key_response([self.key], [], int(time.time() * 1000) + _DAY_MS)
        if path[3:4] == ["send_join"]:
            room = self.rooms[path[4]]
            assert isinstance(room, LargeRoom)
            omit = parse_qs(parts.query).get("omit_members") == ["true"]
            return room.join_answer(msgspec.json.decode(request.body or b"{}"), omit_members=omit)
        if path[3:4] in (["state"], ["state_ids"]):
            self.asked_for_state += 1
        return super()._honest(request)


@contextmanager
def serve(resident: Resident, wire: Wire) -> Iterator[None]:
    """Answer on the wire for the length of the `with`."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Small answers must not wait for the acknowledgement of their heads.
        wbufsize = -1
        disable_nagle_algorithm = True

        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            with lock:
                response = resident.answer(self.command, self.path, body)
            self.send_response(response.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body)

        do_GET = do_PUT = do_POST = _handle  # noqa: N815 (the library's names)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = _Server((wire.address, wire.port), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(wire.certificate_file, wire.private_key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A server under test that is stopped breaks its connections off."""


def make_resident(wire: Wire) -> Resident:
    """A resident server by the name of its wire."""
    return Resident(ServerName(wire.server_name))
