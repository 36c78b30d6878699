"""Whose keys a client must ask for again. spec: client-server-api#tracking-the-device-list-for-a-user"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.store.device_lists import CHANGES_KEPT, load_chain
from tests.api.keys import KeysCase
from tests.api.rooms import ALICE, BOB, CAROL, V3
from tests.support.app import SERVER_NAME
from tests.support.databases import on_each_database
from tests.support.keys import KeyDevice


def person(name: str) -> str:
    return f"@{name}:{SERVER_NAME}"


@on_each_database
class Lists(KeysCase):
    def setUp(self) -> None:
        super().setUp()
        self.carol = self.app.register("carol")

    def room(self, *others: str, **body: Any) -> str:
        """A room of alice's, which others have joined."""
        room_id = self.create(preset="public_chat", **body)
        for token in others:
            self.ok(token, f"/join/{room_id}")
        return room_id

    def now(self, token: str) -> str:
        """Where a client is."""
        since: str = self.sync(token)["next_batch"]
        return since

    def told(self, token: str, since: str) -> tuple[list[str], list[str]]:
        """What a sync says, what it says after a restart, and what /keys/changes says: the same."""
        answer = self.sync(token, since)
        found = self.lists(answer)
        query = {"from": since, "to": answer["next_batch"]}
        changes = self.app.ok("GET", f"{V3}/keys/changes", None, token, query)
        self.assertEqual(found, (changes["changed"], changes["left"]))
        return found

    def test_new_keys_are_told_to_those_who_share_a_room(self) -> None:
        self.room(self.bob)
        since = {token: self.now(token) for token in (self.alice, self.bob, self.carol)}
        self.device("alice", "PHONE")
        for _ in range(2):
            self.assertEqual(([ALICE], []), self.told(self.alice, since[self.alice]))
            self.assertEqual(([ALICE], []), self.told(self.bob, since[self.bob]))
            self.assertEqual(([], []), self.told(self.carol, since[self.carol]))
            self.app.restart()

    def test_what_is_a_change_and_what_is_none(self) -> None:
        self.room(self.bob)
        token, device = self.device("alice", "PHONE")
        since = self.now(self.bob)
        self.ok(token, "/keys/upload", {"device_keys": device.keys()})
        self.ok(token, "/keys/upload", {"one_time_keys": device.one_time_keys("a")})
        self.app.ok("PUT", f"{V3}/profile/{ALICE}/displayname", {"displayname": "Alice"}, self.alice)
        body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}}
        plain = self.app.ok("POST", f"{V3}/login", {**body, "password": "correct horse"})["access_token"]
        self.ok(plain, "/logout")
        self.assertEqual(([], []), self.told(self.bob, since))
        steps = (
            lambda: self.ok(token, "/keys/upload", {"device_keys": KeyDevice(ALICE, "PHONE", "new").keys()}),
            lambda: self.app.ok("PUT", f"{V3}/devices/PHONE", {"display_name": "Phone"}, token),
            lambda: self.ok(token, "/logout"),
        )
        for step in steps:
            step()
            self.assertEqual(([ALICE], []), self.told(self.bob, since))
            since = self.now(self.bob)

    def test_logging_out_everywhere(self) -> None:
        self.room(self.bob)
        self.device("alice", "PHONE")
        self.device("alice", "DESK")
        since = self.now(self.bob)
        self.ok(self.alice, "/logout/all")
        self.assertEqual(([ALICE], []), self.told(self.bob, since))
        self.assertEqual({ALICE: {}}, self.query(self.bob, ALICE)["device_keys"])

    def test_coming_and_going(self) -> None:
        room_id = self.room(self.bob)
        since = {token: self.now(token) for token in (self.alice, self.bob, self.carol)}
        self.ok(self.carol, f"/join/{room_id}")
        self.assertEqual(([CAROL], []), self.told(self.alice, since[self.alice]))
        self.assertEqual(([ALICE, BOB], []), self.told(self.carol, since[self.carol]))
        since = {token: self.now(token) for token in since}
        # Somebody's new name is nothing.
        self.app.ok("PUT", f"{V3}/profile/{CAROL}/displayname", {"displayname": "C"}, self.carol)
        self.app.advance(1)
        self.assertEqual(([], []), self.told(self.alice, since[self.alice]))
        since = {token: self.now(token) for token in since}
        self.ok(self.carol, f"/rooms/{room_id}/leave")
        self.assertEqual(([], [CAROL]), self.told(self.alice, since[self.alice]))
        self.assertEqual(([], [ALICE, BOB]), self.told(self.carol, since[self.carol]))
        self.app.restart()
        self.assertEqual(([], [CAROL]), self.told(self.alice, since[self.alice]))
        self.assertEqual(([], [ALICE, BOB]), self.told(self.carol, since[self.carol]))

    def test_one_room_of_two(self) -> None:
        first, second = self.room(self.bob), self.room(self.bob)
        since = self.now(self.bob)
        self.ok(self.alice, f"/rooms/{first}/leave")
        self.assertEqual(([], []), self.told(self.bob, since))
        self.device("alice", "PHONE")
        self.assertEqual(([ALICE], []), self.told(self.bob, since))
        self.ok(self.alice, f"/rooms/{second}/leave")
        self.assertEqual(([], [ALICE]), self.told(self.bob, since))
        later = self.now(self.bob)
        self.device("alice", "DESK")
        self.assertEqual(([], []), self.told(self.bob, later))
        # Gone, changed and back: what bob knows of her is old.
        self.ok(self.alice, f"/join/{first}")
        self.assertEqual(([ALICE], []), self.told(self.bob, later))

    def test_there_and_back_in_between(self) -> None:
        room_id = self.room(self.bob)
        since = {token: self.now(token) for token in (self.alice, self.bob)}
        self.ok(self.bob, f"/rooms/{room_id}/leave")
        self.device("alice", "PHONE")
        self.ok(self.bob, f"/join/{room_id}")
        self.assertEqual(([ALICE], []), self.told(self.bob, since[self.bob]))
        self.assertEqual(([ALICE, BOB], []), self.told(self.alice, since[self.alice]))
        # And in the order that leaves nothing behind.
        other = {token: self.now(token) for token in (self.alice, self.carol)}
        self.ok(self.carol, f"/join/{room_id}")
        self.ok(self.carol, f"/rooms/{room_id}/leave")
        self.assertEqual([], self.told(self.alice, other[self.alice])[0])
        self.assertEqual([], self.told(self.carol, other[self.carol])[0])

    def test_invites_and_kicks(self) -> None:
        room_id = self.create(preset="private_chat")
        since = {token: self.now(token) for token in (self.alice, self.bob)}
        self.ok(self.alice, f"/rooms/{room_id}/invite", {"user_id": BOB})
        self.assertEqual(([], []), self.told(self.alice, since[self.alice]))
        self.assertEqual(([], []), self.told(self.bob, since[self.bob]))
        self.ok(self.bob, f"/join/{room_id}")
        since = {token: self.now(token) for token in since}
        self.ok(self.alice, f"/rooms/{room_id}/ban", {"user_id": BOB})
        self.assertEqual(([], [BOB]), self.told(self.alice, since[self.alice]))
        self.assertEqual(([], [ALICE]), self.told(self.bob, since[self.bob]))

    def test_who_came_after_the_reader_had_gone_is_not_named(self) -> None:
        dave, erin, frank = (self.app.register(name) for name in ("dave", "erin", "frank"))
        room_id = self.room(self.bob, self.carol, dave)
        since = self.now(self.bob)
        self.ok(self.carol, f"/rooms/{room_id}/leave")
        self.ok(self.alice, f"/rooms/{room_id}/kick", {"user_id": BOB})
        self.ok(dave, f"/rooms/{room_id}/leave")
        for token in (erin, frank, self.carol):
            self.ok(token, f"/join/{room_id}")
        self.ok(erin, f"/rooms/{room_id}/leave")
        for _ in range(2):
            self.assertEqual(([], [ALICE, CAROL, person("dave")]), self.told(self.bob, since))
            self.app.restart()

    def test_who_had_gone_before_the_reader_came_is_not_named(self) -> None:
        dave = self.app.register("dave")
        room_id = self.room(self.carol, dave)
        since = self.now(self.bob)
        self.ok(self.carol, f"/rooms/{room_id}/leave")
        self.ok(self.bob, f"/join/{room_id}")
        self.ok(dave, f"/rooms/{room_id}/leave")
        self.app.ok("PUT", f"{V3}/profile/{BOB}/displayname", {"displayname": "B"}, self.bob)
        self.app.advance(1)
        self.ok(self.bob, f"/rooms/{room_id}/leave")
        self.assertEqual(([], [ALICE, person("dave")]), self.told(self.bob, since))

    def test_who_went_before_an_answer_is_told_though_the_reader_goes_while_it_is_made(self) -> None:
        changes, interner = self.app.app.core.changes, self.app.app.core.interner
        news = self.app.app.services.encryption.news
        room_id = self.room(self.bob, self.carol)
        places = [changes.position]
        for token in (self.carol, self.bob):
            self.ok(token, f"/rooms/{room_id}/leave")
            places.append(changes.position)
        bob, *others = (interner.known_user(user_id) for user_id in (BOB, CAROL, ALICE))
        assert bob is not None
        left: set[int] = set()
        for since, upto in pairwise(places):
            told = self.app.wait(Deferred.fromCoroutine(news._list_news(bob, since, upto)))
            left |= told.left
        self.assertEqual(set(others), left)

    def test_who_went_while_the_reader_was_away(self) -> None:
        room_id = self.room(self.bob, self.carol)
        since = self.now(self.bob)
        self.ok(self.bob, f"/rooms/{room_id}/leave")
        self.ok(self.carol, f"/rooms/{room_id}/leave")
        self.ok(self.bob, f"/join/{room_id}")
        self.assertEqual(([ALICE], [CAROL]), self.told(self.bob, since))

    def test_syncs_that_wait_are_woken(self) -> None:
        self.room(self.bob)
        waiting = {}
        for token in (self.bob, self.carol):
            query: Any = {"since": self.now(token), "timeout": 30_000}
            waiting[token] = self.app.start("GET", f"{V3}/sync", None, token, query)
        self.app.advance(1)
        self.device("alice", "PHONE")
        answer = self.app.wait(waiting[self.bob]).json
        self.assertEqual(([ALICE], []), self.lists(answer))
        self.app.advance(1)
        self.assertFalse(waiting[self.carol].called)
        self.app.advance(30)
        self.assertEqual(([], []), self.lists(self.app.wait(waiting[self.carol]).json))
        # What was told is told once.
        self.assertEqual(([], []), self.told(self.bob, answer["next_batch"]))

    def test_an_initial_sync_says_nothing_of_lists(self) -> None:
        self.room(self.bob)
        self.device("alice", "PHONE")
        self.assertNotIn("device_lists", self.sync(self.bob))

    def test_only_so_many_changes_are_kept_and_none_is_lost(self) -> None:
        self.room(self.bob)
        token, _ = self.device("alice", "PHONE")
        since = self.now(self.bob)
        for number in range(CHANGES_KEPT + 5):
            keys = KeyDevice(ALICE, "PHONE", str(number)).keys()
            self.ok(token, "/keys/upload", {"device_keys": keys})
        nid = self.app.app.core.interner.known_user(ALICE)
        assert nid is not None
        chain = self.app.wait(self.app.database.read(load_chain, nid, 0, 2**62))
        self.assertEqual(CHANGES_KEPT, len(chain))
        self.app.restart()
        self.assertEqual(([ALICE], []), self.told(self.bob, since))

    def test_bad_requests(self) -> None:
        since = self.now(self.bob)
        for query in ({}, {"from": since}, {"to": since}):
            answer = self.app.call("GET", f"{V3}/keys/changes", None, self.bob, query)
            self.assert_refused(answer, 400, "M_MISSING_PARAM")
        for query in ({"from": "x", "to": since}, {"from": since, "to": "x"}):
            answer = self.app.call("GET", f"{V3}/keys/changes", None, self.bob, query)
            self.assert_refused(answer, 400, "M_INVALID_PARAM")
