"""User-interactive authentication: a request is repeated until the stages of one of its flows are complete.

Contract:
1. A session belongs to one method, path and user, and from its first completed stage on to one body as well: what a
   person confirmed is what is done. (Before that the body may change: clients ask with an empty one to learn flows.)
2. Stages are completed in a flow's order; a completed session is used up.
3. A stage may also be completed on a page of this server (`complete`); then the body is bound by the next request, and
   the page says what it is for.
4. Sessions are bounded in number and age, and live in memory only: a restart makes the client ask again.
5. A session remembers the body that it began with, for clients that send nothing but `auth` from then on (`recall`).
spec: client-server-api#user-interactive-authentication-api
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec

from homeserver.http.errors import MatrixError, bad_json, forbidden
from homeserver.http.request import Request
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy

Stage = Callable[[dict[str, Any]], Awaitable[Any]]
"""Judges one `auth` dict: returns a result to keep, or raises StageRefusedError."""

MAX_SESSIONS = 10_000
# LIMIT(memory: anybody may begin a session; whoever sends more has to send it again)
_MAX_REMEMBERED_BYTES = 2_048

_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class StageRefusedError(Exception):
    """An attempt at a stage failed; the client may try again."""

    def __init__(self, errcode: str, error: str) -> None:
        super().__init__(errcode, error)
        self.errcode = errcode
        self.error = error


class InteractiveAuthNeededError(MatrixError):
    """The 401 that says what is still to be done; without an errcode it is no error but the next step."""

    def __init__(
        self, state: dict[str, Any], errcode: str = "", error: str = "More authentication is needed"
    ) -> None:
        super().__init__(401, errcode, error)
        self.state = state

    def to_json(self) -> dict[str, Any]:
        if not self.errcode:
            return self.state
        return {**self.state, "errcode": self.errcode, "error": self.error}


@dataclass(frozen=True, slots=True)
class Offer:
    """What one endpoint asks for: its flows, how each stage is judged, and public parameters of stages."""

    flows: Sequence[Sequence[str]]
    stages: Mapping[str, Stage]
    params: Mapping[str, Any] = field(default_factory=dict)
    user_id: str = ""  # who has to prove that it is they, where that is known


@dataclass(frozen=True, slots=True)
class Pending:
    """A session as a page shows it."""

    method: str
    path: str
    offer: Offer
    next_stages: frozenset[str]
    completed: frozenset[str]


class UnknownSessionError(Exception):
    """There is no such session (any more), or the stage is not its next one."""


@dataclass(slots=True)
class _Session:
    session_id: str
    place: tuple[str, str, int]
    ends_s: float
    offer: Offer  # as it was when the client asked last
    body_hash: bytes | None = None
    remembered: Mapping[str, Any] = field(default_factory=dict)  # the body that it began with
    results: dict[str, Any] = field(default_factory=dict)

    def state(self, offer: Offer) -> dict[str, Any]:
        """The body of the 401."""
        found: dict[str, Any] = {
            "session": self.session_id,
            "flows": [{"stages": list(stages)} for stages in offer.flows],
            "params": dict(offer.params),
        }
        if self.results:
            found["completed"] = list(self.results)
        return found

    def next_stages(self, offer: Offer) -> set[str]:
        """What may be attempted now: the stage after those completed, in every flow that began with these."""
        done = list(self.results)
        return {
            flow[len(done)]
            for flow in offer.flows
            if len(flow) > len(done) and list(flow[: len(done)]) == done
        }

    def is_complete(self, offer: Offer) -> bool:
        done = list(self.results)
        return bool(done) and any(list(flow) == done for flow in offer.flows)


class InteractiveAuth:
    """Holds the sessions. One for the whole server."""

    def __init__(
        self, clock: Clock, entropy: Entropy, lifetime_s: float, *, max_sessions: int = MAX_SESSIONS
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._lifetime_s = lifetime_s
        self._max_sessions = max_sessions
        # Oldest first: all live equally long, so the first is the first to end.
        self._sessions: dict[str, _Session] = {}

    @property
    def size(self) -> int:
        """How many sessions are under way."""
        return len(self._sessions)

    async def confirm(
        self, request: Request, body: Mapping[str, Any], offer: Offer, *, user_nid: int = 0
    ) -> dict[str, Any]:
        """The results of the completed stages; or the 401 that asks for more."""
        place = (request.method, request.path, user_nid)
        auth = body.get("auth")
        if auth is None:
            session = self._start(place, offer)
            if body and len(_encode_sorted(body)) <= _MAX_REMEMBERED_BYTES:
                session.remembered = body
            raise InteractiveAuthNeededError(session.state(offer))
        if not isinstance(auth, dict):
            raise bad_json("auth must be an object")
        session = self._find(auth, place, offer)
        session.offer = offer
        if session.results and session.body_hash is None:
            session.body_hash = _hash_body(body)  # completed on a page
        kind = auth.get("type")
        if kind is not None:
            await self._attempt(session, kind, auth, body, offer)
        self._check_body(session, body)
        if not session.is_complete(offer):
            raise InteractiveAuthNeededError(session.state(offer))
        if self._sessions.pop(session.session_id, None) is None:
            # Two requests completed it at the same time; one of them has used it up.
            raise InteractiveAuthNeededError(
                self._start(place, offer).state(offer), "M_UNKNOWN", "The session is used up"
            )
        return session.results

    def recall(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body of a request that holds nothing but `auth`, with what its session began with.

        COMPAT(Element for Android before X, and what is built on its SDK, always): the specification has clients
        repeat the whole request, but these register so.
        """
        auth = body.get("auth")
        if len(body) != 1 or not isinstance(auth, dict) or not isinstance(auth.get("session"), str):
            return body
        session = self._alive(auth["session"])
        return body if session is None else {**session.remembered, **body}

    def look(self, session_id: str) -> Pending | None:
        """A session, for a page on which a stage can be completed."""
        session = self._alive(session_id)
        if session is None:
            return None
        method, path, _ = session.place
        following = frozenset(session.next_stages(session.offer))
        return Pending(method, path, session.offer, following, frozenset(session.results))

    async def complete(self, session_id: str, kind: str, auth: dict[str, Any]) -> None:
        """Complete a stage for a client that repeats its request afterwards, with the session alone.

        Raises UnknownSessionError, StageRefusedError, or what the stage raises.
        """
        # spec: client-server-api#fallback
        session = self._alive(session_id)
        if session is None or kind not in session.next_stages(session.offer):
            raise UnknownSessionError
        result = await session.offer.stages[kind](auth)
        if self._alive(session_id) is not session or kind not in session.next_stages(session.offer):
            raise UnknownSessionError  # another request was faster
        session.results[kind] = result

    def _alive(self, session_id: str) -> _Session | None:
        session = self._sessions.get(session_id)
        return None if session is None or session.ends_s <= self._clock.monotonic() else session

    def _find(self, auth: dict[str, Any], place: tuple[str, str, int], offer: Offer) -> _Session:
        session_id = auth.get("session")
        if session_id is None:
            # A stage that needs nothing from the session may come at once (bots register so).
            return self._start(place, offer)
        if not isinstance(session_id, str):
            raise bad_json("session must be a string")
        session = self._alive(session_id)
        if session is None:
            raise InteractiveAuthNeededError(
                self._start(place, offer).state(offer), "M_UNKNOWN", "The session is not known (any more)"
            )
        if session.place != place:
            raise forbidden("The session belongs to another request")
        return session

    async def _attempt(
        self, session: _Session, kind: Any, auth: dict[str, Any], body: Mapping[str, Any], offer: Offer
    ) -> None:
        if not isinstance(kind, str):
            raise bad_json("type must be a string")
        if kind in session.results:
            return  # a repetition of what is done
        stage = offer.stages.get(kind)
        if stage is None or kind not in session.next_stages(offer):
            raise InteractiveAuthNeededError(
                session.state(offer),
                "M_UNRECOGNIZED",
                "This stage is not part of the flow, or not its next one",
            )
        self._check_body(session, body)
        try:
            result = await stage(auth)
        except StageRefusedError as refused:
            raise InteractiveAuthNeededError(session.state(offer), refused.errcode, refused.error) from None
        if kind in session.next_stages(offer):  # unless another request was faster
            session.results[kind] = result
            if session.body_hash is None:
                session.body_hash = _hash_body(body)

    def _check_body(self, session: _Session, body: Mapping[str, Any]) -> None:
        if session.body_hash is not None and session.body_hash != _hash_body(body):
            raise forbidden("The request changed while it was being confirmed")

    def _start(self, place: tuple[str, str, int], offer: Offer) -> _Session:
        now_s = self._clock.monotonic()
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            if oldest.ends_s > now_s and len(self._sessions) < self._max_sessions:
                break
            del self._sessions[oldest.session_id]
        session = _Session(self._entropy.token(18), place, now_s + self._lifetime_s, offer)
        self._sessions[session.session_id] = session
        return session


def _hash_body(body: Mapping[str, Any]) -> bytes:
    return sha256(_encode_sorted({name: value for name, value in body.items() if name != "auth"})).digest()
