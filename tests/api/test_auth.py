"""From a token to the requester: memory that follows the log. spec: client-server-api#using-access-tokens"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail

from homeserver.accounts.auth import Authenticator
from homeserver.accounts.types import Requester
from homeserver.db.errors import DatabaseUnavailable
from homeserver.http.errors import MatrixError
from homeserver.http.request import Headers, Request
from homeserver.http.route import Auth, Match, Route
from homeserver.store.changes import Change, Kind
from homeserver.store.tokens import hash_token
from tests.support.accounts import WorldCase, now
from tests.support.databases import on_each_database


async def _unused(request: Request) -> None:
    raise AssertionError("not called")


ROUTE = Route(method="GET", template="/", handler=_unused, spec="none")


class SlowDatabase:
    """Hands every read's answer over when told to, as it was when the read began."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.waiting: list[tuple[Deferred[Any], Any]] = []

    def read(self, unit: Any, *args: Any) -> Deferred[Any]:
        result: Deferred[Any] = Deferred()
        self.waiting.append((result, now(self._database.read(unit, *args))))
        return result


class BrokenWorker:
    def work(self, *args: Any, **kwargs: Any) -> Deferred[Any]:
        return fail(DatabaseUnavailable("gone"))


@on_each_database
class Authentication(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()
        self.token = self.world.token_of("alice", device_id="PHONE")

    def request(self, token: str | None) -> Request:
        headers = Headers()
        if token is not None:
            headers.add(b"authorization", b"Bearer " + token.encode())
        return Request("GET", b"/", headers, match=Match(ROUTE), serve=frozenset(), client_ip="192.0.2.7")

    def requester(self, token: str | None, auth: Auth = Auth.USER, by: Authenticator | None = None) -> Any:
        found = (by or self.world.auth).authenticate(self.request(token), auth)
        return found if found is None or isinstance(found, Requester) else now(found)

    def refusal(self, token: str | None, auth: Auth = Auth.USER) -> tuple[int, str]:
        with self.assertRaises(MatrixError) as caught:
            self.requester(token, auth)
        return caught.exception.status, caught.exception.errcode

    def test_who_it_is(self) -> None:
        found = self.requester(self.token)
        self.assertEqual(("@alice:home.example", "PHONE"), (found.user_id, found.device_id))
        self.assertEqual(
            (False, False, hash_token(self.token)), (found.is_admin, found.is_guest, found.token_hash)
        )

    def test_the_second_time_at_once(self) -> None:
        first = self.requester(self.token)
        again = self.world.auth.authenticate(self.request(self.token), Auth.USER)
        self.assertIs(first, again)

    def test_a_login_is_known_from_the_start_and_ends_no_other(self) -> None:
        first = self.requester(self.token)
        tablet = self.world.login("alice", device_id="TABLET").json["access_token"]
        known = self.world.auth.authenticate
        self.assertIs(first, known(self.request(self.token), Auth.USER))
        found = known(self.request(tablet), Auth.USER)
        self.assertIsInstance(found, Requester)
        # What is known from the login is what the tables say.
        other = Authenticator(self.world.database, self.world.worker, self.world.clock)
        self.assertEqual(self.requester(tablet, by=other), found)
        again = self.world.login("alice", device_id="TABLET").json["access_token"]
        self.assertEqual((401, "M_UNKNOWN_TOKEN"), self.refusal(tablet))
        self.assertEqual("TABLET", self.requester(again).device_id)

    def test_refusals(self) -> None:
        self.assertEqual((401, "M_MISSING_TOKEN"), self.refusal(None))
        self.assertEqual((401, "M_UNKNOWN_TOKEN"), self.refusal("nonsense"))
        self.assertEqual((401, "M_UNKNOWN_TOKEN"), self.refusal("nonsense", Auth.OPTIONAL))
        self.assertIsNone(self.requester(None, Auth.OPTIONAL))
        self.assertEqual((403, "M_FORBIDDEN"), self.refusal(self.token, Auth.ADMIN))
        self.assertEqual((403, "M_FORBIDDEN"), self.refusal(self.token, Auth.APPSERVICE))

    def test_administrators_from_the_next_request_on(self) -> None:
        now(self.world.accounts.set_admin("@alice:home.example", True))
        self.assertTrue(self.requester(self.token, Auth.ADMIN).is_admin)
        now(self.world.accounts.set_admin("@alice:home.example", False))
        self.assertEqual((403, "M_FORBIDDEN"), self.refusal(self.token, Auth.ADMIN))

    def test_changes_of_another_process_count(self) -> None:
        first = self.requester(self.token)
        self.world.auth.apply([Change(9, Kind.DEVICES, -first.user_nid, 0)])
        self.assertEqual(0, self.world.auth.size)
        self.assertEqual(first, self.requester(self.token))

    def test_a_token_revoked_while_it_is_looked_up_is_not_remembered(self) -> None:
        slow = SlowDatabase(self.world.database)
        auth = Authenticator(slow, self.world.worker, self.world.clock)  # type: ignore[arg-type]
        pending: Any = auth.authenticate(self.request(self.token), Auth.USER)
        answer = Deferred.fromCoroutine(pending)
        before = len(self.world.changes)
        self.world.call("POST", "/v3/logout", {}, self.token)
        auth.apply(self.world.changes[before:])
        result, value = slow.waiting.pop()
        result.callback(value)
        self.assertEqual("@alice:home.example", self.successResultOf(answer).user_id)  # it asked before
        self.assertEqual(0, auth.size)
        again: Any = auth.authenticate(self.request(self.token), Auth.USER)
        refused = Deferred.fromCoroutine(again)
        result, value = slow.waiting.pop()
        result.callback(value)
        self.assertEqual("M_UNKNOWN_TOKEN", self.failureResultOf(refused, MatrixError).value.errcode)

    def test_memory_is_bounded_and_keeps_who_is_active(self) -> None:
        world = self.world
        auth = Authenticator(world.database, world.worker, world.clock, capacity=2)
        bob, carol = world.token_of("bob"), world.token_of("carol")
        first = self.requester(self.token, by=auth)
        self.requester(bob, by=auth)
        world.time.advance(61)
        self.requester(self.token, by=auth)  # in use again: bob is the oldest now
        self.requester(carol, by=auth)
        self.assertEqual(2, auth.size)
        self.assertIs(first, auth.authenticate(self.request(self.token), Auth.USER))
        self.assertFalse(isinstance(auth.authenticate(self.request(carol), Auth.USER), Deferred))
        self.assertEqual("@bob:home.example", self.requester(bob, by=auth).user_id)

    def test_a_database_that_is_gone_does_not_matter_to_last_seen(self) -> None:
        world = self.world
        auth = Authenticator(world.database, BrokenWorker(), world.clock)
        self.requester(self.token, by=auth)
        world.time.advance(6)  # an error would be reported by trial
        self.assertIsNone(auth.last_seen(self.requester(self.token, by=auth).device_nid))
        self.assertEqual("@alice:home.example", self.requester(self.token, by=auth).user_id)
