"""Joins of which the members come later, and rooms whose servers do not let them come."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from twisted.internet.defer import Deferred

from federation.ids import ServerName
from homeserver.http.transport import PeerRequest, PeerResponse, TimedOut
from homeserver.rooms.federated import partial
from tests.federation.people import A, B, C
from tests.federation.test_partial import PartialCase
from tests.support.databases import on_each_database
from tests.support.federation import Sent

ROOMS = 4  # more than there are places


@on_each_database
class Held(PartialCase):
    """Rooms of a whose state never comes, and one of b whose state would."""

    def setUp(self) -> None:
        super().setUp()
        self.stuck: set[str] = set()

    def get_stuck(self) -> list[str]:
        """Rooms of a that carol joins, and waits for."""
        rooms = [self.create(self.a, self.alice, preset="public_chat") for _ in range(ROOMS)]
        self.stuck.update(rooms)
        self.held = False
        for room_id in rooms:
            self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.net.advance(5)
        return rooms

    def is_stuck(self, request: PeerRequest) -> bool:
        return "/state/" in request.uri and any(one in unquote(request.uri) for one in self.stuck)

    def assert_whole(self, *rooms: str, finished: bool = True) -> None:
        self.assertEqual([finished] * len(rooms), [self.progress(one)["finished"] for one in rooms])

    def join_another(self) -> str:
        room_id = self.create(self.b, self.bob, preset="public_chat")
        self.assertEqual(200, self.join(self.c, self.carol, room_id, B).status)
        self.net.advance(5)
        return room_id

    def test_a_server_that_does_not_answer(self) -> None:
        self.drip(0)
        stuck = self.get_stuck()
        self.assert_whole(self.join_another())
        self.assert_whole(*stuck, finished=False)
        self.stuck.clear()
        self.net.advance(1_000)
        self.assert_whole(*stuck)

    def test_large_answers_that_take_long(self) -> None:
        """Such a server has one place at most, and after that its turn comes after that of others."""
        self.patch(partial, "FREE_BYTES", 0)
        self.drip(4_000)
        stuck = self.get_stuck()
        self.assert_whole(self.join_another())
        self.assert_whole(*stuck, finished=False)
        self.stuck.clear()
        self.net.advance(1_000)
        self.assert_whole(*stuck)

    def test_an_answer_that_comes_too_slowly(self) -> None:
        self.drip(100)
        self.get_stuck()
        asked = len(self.net.sent("/state/", C))
        self.net.advance(250)
        self.assertGreater(len(self.net.sent("/state/", C)), asked)

    def drip(self, size: int) -> None:
        """So much of the stuck states comes every second."""
        carry = self.net.carry

        def slow(
            origin: ServerName, request: PeerRequest, receive: Callable[[bytes], None] | None
        ) -> Deferred[PeerResponse]:
            if receive is None or not self.is_stuck(request):
                return carry(origin, request, receive)
            self.net.requests.append(Sent(origin, request))
            result: Deferred[PeerResponse] = Deferred()
            end_s = self.net.time.seconds() + request.timeout_s

            def go_on() -> None:
                if result.called:
                    return
                if self.net.time.seconds() >= end_s:
                    result.errback(TimedOut("it took too long"))
                    return
                if size:
                    receive(b" " * size)
                self.net.time.callLater(1, go_on)

            self.net.time.callLater(1, go_on)
            return result

        self.patch(self.net, "carry", slow)
