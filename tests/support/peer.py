"""FakePeer: another homeserver, played by hand. It signs with a real key and can say anything, true or not.

    peer = FakePeer("evil.example")
    room = peer.create("11")                        # a room of the peer's own
    room = peer.follow(app, room_id)                # or one of the server under test, as far as it goes
    event = room.say("hello")                       # on its newest events
    lie = room.add("m.room.message", {}, prev=["$nowhere"], depth=99)
    peer.answers["GET", "/_matrix/federation/v1/state_ids/"] = {"pdu_ids": "garbage"}

As a ``Transport`` (``send``) it answers what other servers ask of it: truthfully from its rooms, unless ``answers`` has
something else for a method and the beginning of a path: a JSON value, a ``PeerResponse``, an exception, a Deferred, or a
function of the request that gives one of these. ``asked`` has every request that came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from twisted.internet.defer import Deferred, fail, succeed

from federation import xmatrix
from federation.canonical import encode_checked
from federation.event import Event, parse_stored
from federation.hashes import compute_event_id, unpadded
from federation.ids import EventId, RoomId, ServerName, UserId
from federation.keyring import build_key_response
from federation.signing import SigningKey, hash_and_sign_event, sign_event
from federation.versions import ROOM_VERSIONS
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from tests.support.peer_rooms import PeerRoom, read_room

FEDERATION = "/_matrix/federation/v1"
_START_MS = 1_700_000_000_000
_KEYS_VALID_MS = 7 * 24 * 3600 * 1000


class FakePeer:
    """See the module."""

    def __init__(self, server_name: str = "peer.example", key_version: str = "one") -> None:
        self.server_name = ServerName(server_name)
        seed = sha256(f"{server_name} {key_version}".encode()).digest()
        self.key = SigningKey.from_seed(self.server_name, key_version, seed)
        self.rooms: dict[str, PeerRoom] = {}
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[PeerRequest] = []
        self.reachable = True
        self._transactions = 0

    def user(self, localpart: str = "mallory") -> UserId:
        """A user of this server."""
        return UserId(f"@{localpart}:{self.server_name}")

    # --- rooms ---------------------------------------------------------------------------------------

    def create(self, version: str = "11", join_rule: str = "public", **content: Any) -> PeerRoom:
        """A new room of this server: created, joined, with power levels and a join rule."""
        room = PeerRoom(self, ROOM_VERSIONS[version])
        creator = self.user()
        if room.rules.creator_in_content_required:
            content.setdefault("creator", creator)
        room.add("m.room.create", {"room_version": version, **content}, state_key="")
        self.rooms[room.room_id] = room
        room.join(creator)
        users = {} if room.rules.privileged_creators else {creator: 100}
        room.add("m.room.power_levels", {"users": users}, state_key="")
        room.add("m.room.join_rules", {"join_rule": join_rule}, state_key="")
        return room

    def follow(self, app: Any, room_id: str) -> PeerRoom:
        """A room of a server under test (a ``TestApp``) with everything that its database has of it now."""
        version, events, head = app.wait(app.database.read(read_room, room_id))
        room = self.rooms.get(room_id) or PeerRoom(self, ROOM_VERSIONS[version])
        room.room_id = RoomId(room_id)
        for event_id, json in events:
            if event_id not in room.events:
                room.learn(parse_stored(EventId(event_id), json.encode(), room.rules))
        room.head = [EventId(event_id) for event_id in head]
        self.rooms[room_id] = room
        return room

    # --- asking --------------------------------------------------------------------------------------

    def authorization(self, destination: str, method: str, uri: str, body: bytes | None = None) -> str:
        """The header of a signed request."""
        return xmatrix.build(
            self.key, method=method, uri=uri, destination=ServerName(destination), canonical_body=body
        )

    def start(self, app: Any, method: str, uri: str, content: Any = None) -> Deferred[Any]:
        """Begin a signed request to a ``TestApp``; the Deferred gives an ``Answer``. Bytes are sent as they are."""
        body = content
        if content is not None and not isinstance(content, bytes):
            body = encode_checked(content, strict=False, max_depth=100_000)
        header = self.authorization(app.config.server_name, method, uri, body)
        answer: Deferred[Any] = app.http.call(method, uri, body, headers={"authorization": header})
        return answer

    def call(self, app: Any, method: str, uri: str, content: Any = None) -> tuple[int, Any]:
        """A signed request to a ``TestApp``: status and JSON."""
        answer = app.wait(self.start(app, method, uri, content))
        return answer.status, answer.json

    def transaction(self, pdus: Iterable[Any] = (), edus: Iterable[Any] = ()) -> dict[str, Any]:
        """The body of a transaction; events or raw JSON."""
        found = [pdu.json if isinstance(pdu, Event) else pdu for pdu in pdus]
        return {
            "origin": self.server_name,
            "origin_server_ts": _START_MS,
            "pdus": found,
            "edus": list(edus),
        }

    def push(
        self, app: Any, *pdus: Any, edus: Iterable[Any] = (), txn_id: str | None = None
    ) -> tuple[int, Any]:
        """Send a transaction to a ``TestApp``: status and JSON."""
        if txn_id is None:
            self._transactions += 1
            txn_id = f"t{self._transactions}"
        return self.call(app, "PUT", f"{FEDERATION}/send/{txn_id}", self.transaction(pdus, edus))

    # --- being asked ---------------------------------------------------------------------------------

    def send(
        self, request: PeerRequest, receive: Callable[[bytes], None] | None = None
    ) -> Deferred[PeerResponse]:
        """Answer as ``Transport.send`` does."""
        self.asked.append(request)
        if not self.reachable:
            return fail(Unreachable(f"{self.server_name} is switched off"))
        try:
            answer = self._answer(request)
        except LookupError:
            answer = PeerResponse(404, b'{"errcode":"M_NOT_FOUND","error":"not here"}')
        except Exception as error:  # noqa: BLE001 (what an answer raises is the answer)
            answer = error
        waiting: Deferred[Any] = answer if isinstance(answer, Deferred) else succeed(answer)
        return waiting.addCallback(_respond).addCallback(_hand_over, receive)

    def asked_for(self, part: str) -> list[PeerRequest]:
        """The requests whose address has this in it."""
        return [request for request in self.asked if part in unquote(request.uri)]

    def _answer(self, request: PeerRequest) -> Any:
        for (method, prefix), answer in self.answers.items():
            if request.method == method and unquote(request.uri).startswith(prefix):
                return answer(request) if callable(answer) else answer
        return self._honest(request)

    def _honest(self, request: PeerRequest) -> Any:
        parts = urlsplit(request.uri)
        path = [unquote(part) for part in parts.path.split("/")[1:]]
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if path[:3] == ["_matrix", "key", "v2"]:
            return build_key_response([self.key], [], _START_MS + _KEYS_VALID_MS)
        if path[:2] != ["_matrix", "federation"]:
            return _unrecognized()
        body = msgspec.json.decode(request.body) if request.body else {}
        match request.method, *path[3:]:
            case "GET", "event", event_id:
                return self._event(event_id)
            case "GET", "state_ids", room_id:
                return self.rooms[room_id].state_ids_answer(query["event_id"])
            case "GET", "state", room_id:
                return self.rooms[room_id].state_answer(query["event_id"])
            case "GET", "event_auth", room_id, event_id:
                return self.rooms[room_id].event_auth_answer(event_id)
            case "POST", "get_missing_events", room_id:
                return self.rooms[room_id].missing_answer(body)
            case "GET", "backfill", room_id:
                latest = parse_qs(parts.query)["v"]
                return self.rooms[room_id].backfill_answer(latest, int(query["limit"]))
            case "GET", "make_join", room_id, user_id:
                return self.rooms[room_id].make_join_answer(user_id)
            case "PUT", "send_join", room_id, _:
                return self.rooms[room_id].send_join_answer(body)
            case "PUT", "send", _:
                return {"pdus": {}}
        return _unrecognized()

    def _event(self, event_id: str) -> Any:
        for room in self.rooms.values():
            if event_id in room.events:
                return self.transaction([room.events[EventId(event_id)]])
        return PeerResponse(404, b'{"errcode":"M_NOT_FOUND","error":"not here"}')

    # --- signing -------------------------------------------------------------------------------------

    def sign(self, event_json: Mapping[str, Any], version: str = "11") -> dict[str, Any]:
        """Hash and sign whatever is there; the caller may have made it as wrong as it likes."""
        return hash_and_sign_event(event_json, ROOM_VERSIONS[version], self.key)

    def cosign(self, event_json: Mapping[str, Any], version: str = "11") -> dict[str, Any]:
        """One more signature, with the hashes as they are."""
        return sign_event(event_json, ROOM_VERSIONS[version], self.key)


class FakePeers:
    """A network of fake peers alone: a ``Transport``."""

    def __init__(self, *peers: FakePeer) -> None:
        self.peers = {peer.server_name: peer for peer in peers}

    def send(
        self, request: PeerRequest, receive: Callable[[bytes], None] | None = None
    ) -> Deferred[PeerResponse]:
        """Hand the request over."""
        peer = self.peers.get(request.destination)
        if peer is None:
            return fail(Unreachable(f"there is no {request.destination}"))
        return peer.send(request, receive)


def event_id_of(event_json: dict[str, Any], version: str) -> EventId:
    """The id of any event, however wrong it is otherwise."""
    return compute_event_id(event_json, ROOM_VERSIONS[version])


def random_id(label: str) -> EventId:
    """An id of the form of room versions 4 and later that no event has."""
    return EventId("$" + unpadded(sha256(label.encode()).digest()).replace("+", "-").replace("/", "_"))


def _unrecognized() -> PeerResponse:
    return PeerResponse(404, b'{"errcode":"M_UNRECOGNIZED","error":"unknown endpoint"}')


def _respond(answer: Any) -> PeerResponse:
    if isinstance(answer, BaseException):
        raise answer
    if isinstance(answer, PeerResponse):
        return answer
    body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    return PeerResponse(200, body, {"content-type": "application/json"})


def _hand_over(response: PeerResponse, receive: Callable[[bytes], None] | None) -> PeerResponse:
    if receive is None or not 200 <= response.status < 300:
        return response
    receive(response.body)
    return PeerResponse(response.status, b"", response.headers)
