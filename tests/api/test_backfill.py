"""History that other servers have, for our readers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from twisted.internet.defer import Deferred

from federation.ids import EventId
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from homeserver.rooms.federated.backfill import FETCH_S
from homeserver.rooms.reads.pagination import PAST_WAIT_S, Past
from tests.api.peers import JoinedCase
from tests.api.rooms import V3
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION, FakePeer, random_id
from tests.support.peer_rooms import PeerRoom

BACKFILL = ("GET", f"{FEDERATION}/backfill/")
STATE_IDS = ("GET", f"{FEDERATION}/state_ids/")


class HistoryCase(JoinedCase):
    """Rooms of another server, with some history."""

    def room(
        self,
        messages: int = 20,
        version: str = "11",
        visibility: str | None = None,
        peer: FakePeer | None = None,
    ) -> PeerRoom:
        room = (peer or self.peer).create(version)
        if visibility is not None:
            room.add("m.room.history_visibility", {"history_visibility": visibility}, state_key="")
        for number in range(messages):
            room.say(str(number))
        return room

    def ids(self, events: list[Any]) -> list[str]:
        return [one["event_id"] for one in events]

    def backfills(self, peer: FakePeer | None = None) -> int:
        """How often the peer was asked for history."""
        return len((peer or self.peer).asked_for("/backfill/"))


class _EndsBetween:
    """A past whose fetches are over when somebody asks for one: they have come, and nothing is left to fetch."""

    def __init__(self, past: Past) -> None:
        self._past = past

    def may(self, room_nid: int) -> bool:
        return self._past.may(room_nid)

    def begin(self, room_id: str, room_nid: int, top: int = 0) -> bool:
        return self._past.begin(room_id, room_nid, top)

    async def more(self, room_id: str, room_nid: int, wait_s: float, top: int = 0) -> bool:
        await self._past.more(room_id, room_nid, wait_s, top)
        return False

    async def bring(self, room_id: str, room_nid: int, event_id: str, wait_s: float) -> bool:
        return await self._past.bring(room_id, room_nid, event_id, wait_s)


@on_each_database
class Paging(HistoryCase):
    """Paging back beyond what our server has."""

    def test_everything_comes_in_order(self) -> None:
        for version in ("1", "3", "6", "10", "11", "12"):
            peer = self.further_peer(f"v{version}.example")
            room = self.room(30, version, peer=peer)
            room_id = self.adopt(room)
            expected = list(room.events)[::-1]
            self.assertEqual(expected, self.ids(self.pages(room_id)), version)
            asked = len(peer.asked)
            self.assertEqual(expected, self.ids(self.pages(room_id, 7)))
            self.assertEqual(asked, len(peer.asked), "what is here is not asked for")

    def test_five_hundred_events(self) -> None:
        room = self.room(500)
        room_id = self.adopt(room)
        expected = list(room.events)[::-1]
        found = self.pages(room_id)
        self.assertEqual(expected, self.ids(found))
        self.assertEqual("499", found[1]["content"]["body"])
        self.assertEqual(6, self.backfills())
        # One state for each fetch but the last, which comes to the beginning of the room.
        self.assertEqual(5, len(self.peer.asked_for("/state_ids/")))
        self.assertEqual([], self.peer.asked_for("/state/"))

    def test_a_token_of_our_end_goes_on_when_more_has_come(self) -> None:
        room = self.room(150)
        room_id = self.adopt(room)
        self.peer.reachable = False
        chunk, end = self.page(room_id)
        self.assertEqual(self.ids(chunk), [room.head[0]])
        self.assertIsNotNone(end)
        path = f"{V3}/rooms/{quote(room_id)}/messages"
        tokens = [str(end)]
        for _ in range(20):
            query: dict[str, str | int] = {"dir": "b", "limit": 100, "from": tokens[-1]}
            waiting = self.app.start("GET", path, None, self.alice, query)
            self.app.advance(PAST_WAIT_S - 1)
            self.assertFalse(waiting.called, "who is told to go on does so at once")
            self.app.advance(1)
            answer = self.app.wait(waiting).json
            self.assertEqual([], answer["chunk"])
            tokens.append(answer["end"])
        self.assertEqual(tokens[-2], tokens[-1], "some take that for the beginning: it has been a while")
        self.assertEqual(13, len(set(tokens)), "and until then it is another one each time")
        self.peer.reachable = True
        self.app.advance(3600)
        for token in tokens:
            chunk, end = self.page(room_id, start=token)
            self.assertEqual(list(room.events)[-2:-102:-1], self.ids(chunk))
        self.assertEqual(list(room.events)[::-1], self.ids(self.pages(room_id)))

    def test_history_that_comes_while_a_page_is_read_is_no_beginning(self) -> None:
        room = self.room(150)
        room_id = self.adopt(room)
        self.peer.reachable = False
        _, end = self.page(room_id)
        self.peer.reachable = True
        self.app.advance(3600)
        pagination = self.app.app.services.reading.pagination
        pagination._past = _EndsBetween(pagination._past)
        chunk, end = self.page(room_id, start=end)
        self.assertEqual(list(room.events)[-2:-102:-1], self.ids(chunk))
        self.assertIsNotNone(end)

    def test_where_nobody_of_ours_is_any_more_our_history_ends(self) -> None:
        room = self.room(5, visibility="world_readable")
        room_id = self.adopt(room)
        self.peer.reachable = False
        self.app.ok("POST", f"{V3}/rooms/{quote(room_id)}/leave", {}, self.alice)
        _, end = self.page(room_id)
        self.assertIsNotNone(end)
        self.assertEqual(([], None), self.page(room_id, start=end))

    def test_a_filter_that_little_fits_does_not_end_before_the_beginning(self) -> None:
        room = self.room(700)
        room_id = self.adopt(room)
        found: list[str] = []
        query: dict[str, str | int] = {"dir": "b", "limit": 10, "filter": '{"types":["m.room.create"]}'}
        pages = 0
        while pages < 10:
            pages += 1
            path = f"{V3}/rooms/{quote(room_id)}/messages"
            answer = self.app.wait(self.app.start("GET", path, None, self.alice, query)).json
            found += self.ids(answer["chunk"])
            if "end" not in answer:
                break
            query["from"] = answer["end"]
        self.assertEqual([next(iter(room.events))], found)
        self.assertEqual(4, pages)

    def test_forks_keep_parents_before_children(self) -> None:
        room = self.room(3)
        start = room.head
        left = [room.say("left", prev=start).event_id]
        right = [room.say("right", prev=start).event_id]
        for number in range(10):
            left.append(room.say(f"left {number}", prev=[left[-1]]).event_id)
            right.append(room.say(f"right {number}", prev=[right[-1]]).event_id)
        room.say("together", prev=[left[-1], right[-1]])
        room_id = self.adopt(room)
        found = self.ids(self.pages(room_id, 4))
        self.assertEqual(set(room.events), set(found))
        places = {event_id: place for place, event_id in enumerate(found)}
        for event in room.events.values():
            for parent in event.prev_event_ids:
                self.assertLess(places[event.event_id], places[parent])

    def test_many_readers_share_one_fetch(self) -> None:
        room = self.room(20)
        room_id = self.adopt(room)
        gate: Deferred[None] = Deferred()
        room_answer = room.backfill_answer

        def later(request: Any) -> Deferred[Any]:
            return gate.addCallback(
                lambda _: room_answer([room.events[EventId(room.head[0])].prev_event_ids[0]], 100)
            )

        self.peer.answers[BACKFILL] = later
        path = f"{V3}/rooms/{quote(room_id)}/messages"
        query: dict[str, str | int] = {"dir": "b", "limit": 100}
        waiting = [self.app.start("GET", path, None, self.alice, query) for _ in range(5)]
        self.app.advance(0)
        self.assertEqual(1, self.backfills())
        gate.callback(None)
        for one in waiting:
            self.assertEqual(list(room.events)[::-1], self.ids(self.app.wait(one).json["chunk"]))
        self.assertEqual(1, self.backfills())

    def test_who_waits_too_long_gets_what_is_here(self) -> None:
        room = self.room(20)
        room_id = self.adopt(room)
        gate: Deferred[Any] = Deferred()
        self.peer.answers[BACKFILL] = gate
        path = f"{V3}/rooms/{quote(room_id)}/messages"
        waiting = self.app.start("GET", path, None, self.alice, {"dir": "b", "limit": 100})
        self.app.advance(PAST_WAIT_S)
        answer = self.app.wait(waiting).json
        self.assertEqual([room.head[0]], self.ids(answer["chunk"]))
        # The fetch goes on, and what it brings is there for whoever comes next.
        first = room.events[EventId(room.head[0])].prev_event_ids
        gate.callback(room.backfill_answer(first, 100))
        for _ in range(20):
            self.app.advance(0)
        chunk, _ = self.page(room_id, start=answer["end"])
        self.assertEqual(list(room.events)[-2::-1], self.ids(chunk))

    def test_other_servers_are_asked_in_turn(self) -> None:
        other = self.further_peer("other.example")
        room = self.room(20)
        room.join(self.peer.user("another"))
        room.join(other.user(), signer=other.key)
        room_id = self.adopt(room)
        other.rooms[room_id] = room
        self.peer.answers[BACKFILL] = Unreachable("gone")
        self.assertEqual(list(room.events)[::-1], self.ids(self.pages(room_id)))
        self.assertEqual((1, 1), (self.backfills(), self.backfills(other)))

    def test_a_gap_that_nobody_can_fill_is_left_alone_for_a_while(self) -> None:
        room = self.room(5)
        room_id = self.adopt(room)
        self.peer.answers[BACKFILL] = {"pdus": []}
        for seconds, count in ((0, 1), (1, 1), (20, 2), (1, 2), (20, 2), (20, 3)):
            self.app.advance(seconds)
            self.assertEqual([room.head[0]], self.ids(self.page(room_id)[0]))
            self.assertEqual(count, self.backfills())

    def test_a_room_that_nobody_of_ours_is_in_is_not_fetched(self) -> None:
        room = self.room(5, visibility="world_readable")
        room_id = self.adopt(room)
        self.app.ok("POST", f"{V3}/rooms/{quote(room_id)}/leave", {}, self.alice)
        self.page(room_id)
        self.assertEqual(0, self.backfills())

    def test_history_visibility_of_what_was_fetched(self) -> None:
        room = self.room(5, visibility="joined")
        shown = room.add("m.room.history_visibility", {"history_visibility": "shared"}, state_key="").event_id
        later = room.say("later").event_id
        room_id = self.adopt(room)
        found = self.pages(room_id)
        bodies = [one["content"].get("body") for one in found if one["type"] == "m.room.message"]
        self.assertEqual(["later"], bodies)
        self.assertIn(shown, self.ids(found))
        self.assertIn(later, self.ids(found))
        kinds = {one["type"] for one in found}
        self.assertIn("m.room.create", kinds, "before the first visibility event history was shared")

    def test_context_reaches_beyond_our_end(self) -> None:
        room = self.room(20)
        room_id = self.adopt(room)
        path = f"{V3}/rooms/{quote(room_id)}/context/{quote(room.head[0])}"
        answer = self.app.ok("GET", path, None, self.alice, {"limit": 10})
        self.assertEqual(list(room.events)[-2:-7:-1], self.ids(answer["events_before"]))
        chunk, _ = self.page(room_id, start=answer["start"])
        self.assertEqual(list(room.events)[-7::-1], self.ids(chunk))

    def test_an_event_that_is_not_here_yet(self) -> None:
        room = self.room(300)
        room_id = self.adopt(room)
        wanted = list(room.events)[60]
        path = f"{V3}/rooms/{quote(room_id)}"
        event = self.app.ok("GET", f"{path}/event/{quote(wanted)}", None, self.alice)
        self.assertEqual(wanted, event["event_id"])
        earlier = list(room.events)[10]
        context = self.app.ok("GET", f"{path}/context/{quote(earlier)}", None, self.alice, {"limit": 4})
        self.assertEqual(list(room.events)[9:7:-1], self.ids(context["events_before"]))
        self.assertEqual(list(room.events)[11:13], self.ids(context["events_after"]))

    def test_an_event_that_is_nowhere(self) -> None:
        room = self.room(30)
        room_id = self.adopt(room)
        other = self.further_peer("other.example").create()
        self.peer.rooms[other.room_id] = other
        path = f"{V3}/rooms/{quote(room_id)}"
        for event_id in (random_id("none"), other.head[0], "$" + "x" * 200, "$ö"):
            for kind in ("event", "context"):
                answer = self.app.call("GET", f"{path}/{kind}/{quote(event_id)}", None, self.alice)
                self.assert_refused(answer, 404, "M_NOT_FOUND")
        self.assertEqual(
            4, len(self.peer.asked_for("/event/")), "what cannot be had is not asked for again at once"
        )
        self.assertEqual(0, self.backfills())
        self.assert_refused(
            self.app.call("GET", f"{path}/event/{quote(list(room.events)[9])}", None, self.bob),
            404,
            "M_NOT_FOUND",
        )
        self.assertEqual(4, len(self.peer.asked_for("/event/")), "it is not for those outside")

    def test_redactions_apply_to_what_came_before(self) -> None:
        room = self.room(3)
        slip = room.say("a slip").event_id
        room.say("between")
        room.add("m.room.redaction", {"redacts": slip})
        room_id = self.adopt(room)
        found = {one["event_id"]: one for one in self.pages(room_id)}
        self.assertEqual({}, found[slip]["content"])
        self.assertIn("redacted_because", found[slip]["unsigned"])


@on_each_database
class Lies(HistoryCase):
    """What a peer answers is not believed."""

    def answer(self, answer: Any) -> None:
        self.peer.answers[BACKFILL] = answer

    def first(self, room: PeerRoom) -> list[EventId]:
        """What our server misses first."""
        return list(room.events[room.head[0]].prev_event_ids)

    def assert_nothing(self, room: PeerRoom) -> None:
        """A page is answered with what is here, and a token."""
        self.app.advance(100_000)
        chunk, end = self.page(room.room_id)
        self.assertEqual([room.head[0]], self.ids(chunk))
        self.assertIsNotNone(end)

    def test_answers_of_every_wrong_shape(self) -> None:
        room = self.room(5)
        self.adopt(room)
        deep: Any = 1
        for _ in range(5_000):
            deep = [deep]
        answers: list[Any] = [
            [],
            {},
            None,
            {"pdus": None},
            {"pdus": {}},
            {"pdus": [None, 1, "x", [], {}]},
            {"pdus": [{"type": 1}]},
            {"pdus": [{"type": "m.room.message", "content": {}, "room_id": room.room_id}]},
            b"",
            b"{",
            b"\xff",
            b'{"pdus":' + b"[" * 100_000,
            PeerResponse(500, b"oh"),
            PeerResponse(200, b"NaN"),
            Unreachable("gone"),
        ]
        for answer in answers:
            self.answer(answer)
            self.assert_nothing(room)

    def test_events_of_another_room(self) -> None:
        room = self.room(5)
        other = self.further_peer("other.example").create()
        self.adopt(room)
        self.answer({"pdus": [one.json for one in other.events.values()]})
        self.assert_nothing(room)

    def test_events_that_hang_together_with_nothing(self) -> None:
        room = self.room(5)
        self.adopt(room)
        loose = [room.make_json("m.room.message", {"n": n}, prev=[random_id(str(n))]) for n in range(20)]
        self.answer({"pdus": loose})
        self.assert_nothing(room)

    def test_unsigned_and_wrongly_signed_events(self) -> None:
        room = self.room(5)
        self.adopt(room)
        honest = room.backfill_answer(self.first(room), 100)["pdus"]
        unsigned = [{**one, "signatures": {}} for one in honest]
        other = FakePeer(self.peer.server_name, "two")
        forged = [other.cosign({**one, "signatures": {}}) for one in honest]
        for lie in (unsigned, forged):
            self.answer({"pdus": lie})
            self.assert_nothing(room)

    def test_a_wrong_hash_makes_it_redacted(self) -> None:
        room = self.room(5)
        self.adopt(room)
        answer = room.backfill_answer(self.first(room), 100)["pdus"]
        answer[0] = {**answer[0], "content": {"msgtype": "m.text", "body": "never said"}}
        self.answer({"pdus": answer})
        chunk, _ = self.page(room.room_id)
        self.assertEqual(list(room.events)[::-1], self.ids(chunk))
        self.assertEqual({}, chunk[1]["content"])
        self.assertEqual("3", chunk[2]["content"]["body"])

    def test_more_than_asked_for_and_in_any_order(self) -> None:
        room = self.room(250)
        self.adopt(room)
        self.answer({"pdus": [one.json for one in room.events.values()][::-1]})
        chunk, _ = self.page(room.room_id, 60)
        self.assertEqual(list(room.events)[:-61:-1], self.ids(chunk))
        del self.peer.answers[BACKFILL]
        self.assertEqual(list(room.events)[::-1], self.ids(self.pages(room.room_id)))

    def test_forged_history_is_rejected(self) -> None:
        # The peer may invent events of its own users, but not what the rules of the room forbid.
        room = self.room(5)
        outsider = self.peer.user("outsider")
        fake = room.add("m.room.message", {"body": "fake"}, sender=outsider).event_id
        room.say("after")
        self.adopt(room)
        found = self.ids(self.pages(room.room_id))
        self.assertEqual([one for one in list(room.events)[::-1] if one != fake], found)

    def lying_state(self, room: PeerRoom) -> Callable[[PeerRequest], Any]:
        """The state before an event without those who speak in the room."""

        def answer(request: PeerRequest) -> Any:
            [event_id] = parse_qs(urlsplit(request.uri).query)["event_id"]
            told = room.state_ids_answer(event_id)
            members = {one for one in told["pdu_ids"] if room.events[one].type == "m.room.member"}
            return {**told, "pdu_ids": [one for one in told["pdu_ids"] if one not in members]}

        return answer

    def test_a_lie_about_the_state_does_not_take_history_away(self) -> None:
        room = self.room(150)
        self.adopt(room)
        self.peer.answers[STATE_IDS] = self.lying_state(room)
        for _ in range(3):
            self.assert_nothing(room)
        del self.peer.answers[STATE_IDS]
        self.app.advance(100_000)
        self.assertEqual(list(room.events)[::-1], self.ids(self.pages(room.room_id)))

    def test_after_a_failure_another_server_is_asked_first(self) -> None:
        other = self.further_peer("zzz.example")
        room = self.room(150)
        room.join(self.peer.user("another"))
        room.join(other.user(), signer=other.key)
        self.adopt(room)
        other.rooms[room.room_id] = room
        self.peer.answers[STATE_IDS] = self.lying_state(room)
        self.assert_nothing(room)
        self.assertEqual((1, 0), (self.backfills(), self.backfills(other)))
        self.app.advance(100)
        chunk, _ = self.page(room.room_id)
        self.assertEqual(list(room.events)[:-101:-1], self.ids(chunk))
        self.assertEqual((1, 1), (self.backfills(), self.backfills(other)))

    def test_what_all_say_counts_in_the_end(self) -> None:
        room = self.room(150)
        self.adopt(room)
        self.peer.answers[STATE_IDS] = self.lying_state(room)
        for _ in range(4):
            self.assert_nothing(room)
        before = self.backfills()
        self.app.advance(100_000)
        chunk, _ = self.page(room.room_id)
        self.assertNotIn("149", [one["content"].get("body") for one in chunk])
        self.assertGreater(self.backfills() - before, 1, "it goes on behind what was refused")

    def test_cycles(self) -> None:
        # In version 1 events name themselves, so each can cite the other.
        room = self.room(3, "1")
        room_id = self.adopt(room)
        one, two = "$one:peer.example", "$two:peer.example"
        state = list(room.state.values())

        def event(event_id: str, prev: str, depth: int) -> dict[str, Any]:
            json = room.make_json("m.room.message", {"body": event_id}, depth=depth)
            json["event_id"], json["prev_events"] = event_id, [[prev, {"sha256": "x"}]]
            return self.peer.sign(json, "1")

        first = room.events[room.head[0]].prev_event_ids[0]
        good = room.events[first].json
        circle = {**good, "prev_events": [[one, {"sha256": "x"}]]}
        pdus = [self.peer.sign(circle, "1"), event(one, two, 6), event(two, one, 5)]
        self.answer({"pdus": pdus})
        self.peer.answers[STATE_IDS] = {"pdu_ids": state, "auth_chain_ids": []}
        chunk, _ = self.page(room_id)
        self.assertNotIn(one, self.ids(chunk))
        self.assertNotIn(two, self.ids(chunk))

    def test_an_endless_chain_costs_a_few_fetches_a_page(self) -> None:
        # In version 1 an event of any name can be made when it is asked for.
        room = self.room(3, "1")
        room_id = self.adopt(room)
        told = {"pdu_ids": list(room.state_after(self.first(room)).values()), "auth_chain_ids": []}
        self.peer.answers[STATE_IDS] = told

        def more(request: PeerRequest) -> Any:
            [event_id] = parse_qs(urlsplit(request.uri).query)["v"]
            json = room.make_json("m.room.message", {"body": "endless"}, depth=1)
            json["event_id"], json["prev_events"] = (
                event_id,
                [[f"$before-{self.backfills()}:peer.example", {}]],
            )
            return {"pdus": [self.peer.sign(json, "1")]}

        honest = room.events[self.first(room)[0]].json
        lie = self.peer.sign({**honest, "prev_events": [["$start:peer.example", {}]]}, "1")
        self.answer({"pdus": [lie]})
        self.page(room_id, 2)
        self.answer(more)
        self.app.advance(100)
        before = self.backfills()
        chunk, end = self.page(room_id)
        self.assertLessEqual(self.backfills() - before, 3)
        self.assertIn("endless", [one["content"].get("body") for one in chunk])
        self.assertLessEqual(len(chunk), 6)
        self.assertIsNotNone(end)

    def test_states_of_garbage(self) -> None:
        room = self.room(150)
        self.adopt(room)
        answers: list[Any] = [
            {},
            {"pdu_ids": "x", "auth_chain_ids": []},
            {"pdu_ids": [1], "auth_chain_ids": []},
            {"pdu_ids": [], "auth_chain_ids": []},
            {"pdu_ids": ["$\0"], "auth_chain_ids": []},
            {"pdu_ids": [random_id(str(n)) for n in range(300)], "auth_chain_ids": []},
            PeerResponse(404, b'{"errcode":"M_NOT_FOUND"}'),
        ]
        for answer in answers:
            self.peer.answers[STATE_IDS] = answer
            self.assert_nothing(room)
        del self.peer.answers[STATE_IDS]
        self.app.advance(100_000)
        self.assertEqual(list(room.events)[::-1], self.ids(self.pages(room.room_id)))

    def test_a_peer_that_never_answers_is_given_up(self) -> None:
        room = self.room(5)
        room_id = self.adopt(room)
        self.answer(Deferred())
        path = f"{V3}/rooms/{quote(room_id)}/messages"
        waiting = self.app.start("GET", path, None, self.alice, {"dir": "b", "limit": 100})
        self.app.advance(PAST_WAIT_S)
        self.assertEqual([room.head[0]], self.ids(self.app.wait(waiting).json["chunk"]))
        self.app.advance(FETCH_S)
        # Nobody waits for it any more, and it is not asked for again yet.
        self.assertEqual([room.head[0]], self.ids(self.page(room_id)[0]))
        self.assertEqual(1, self.backfills())

    def test_many_gaps_are_tried_from_both_ends(self) -> None:
        # In version 1, and in an old event, somebody may name as many parents as they like.
        room = self.room(3, "1")
        room_id = self.adopt(room)
        first = self.first(room)
        names = [f"$gap-{number:02}:peer.example" for number in range(60)]
        told = {"pdu_ids": list(room.state_after(first).values()), "auth_chain_ids": []}
        self.peer.answers[STATE_IDS] = told
        many = {**room.events[first[0]].json, "prev_events": [[name, {}] for name in names]}
        self.answer({"pdus": [self.peer.sign(many, "1")]})
        self.page(room_id, 1)
        self.app.advance(0)
        self.answer({"pdus": []})
        tried: list[list[str]] = []
        for _ in range(4):
            self.page(room_id)
            tried.append(parse_qs(urlsplit(self.peer.asked_for("/backfill/")[-1].uri).query)["v"])
        self.assertEqual([*names[:10], *names[50:]], tried[0])
        self.assertEqual([*names[10:20], *names[40:50]], tried[1])
        self.assertEqual(names[20:40], tried[2])
        self.assertEqual(tried[2], tried[3], "all have failed, and none is asked for again yet")

    def test_events_full_of_nul(self) -> None:
        # PostgreSQL's text cannot hold it, JSON can.
        room = self.room(2)
        room.say("\0")
        room.add("m.\0", {"\0": "\0"})
        room.add("m.room.\0", {}, state_key="\0")
        room.add("m.room.redaction", {"redacts": "$\0"})
        room.add("m.reaction", {"m.relates_to": {"rel_type": "m.\0", "event_id": "$\0", "key": "\0"}})
        room.add("m.room.message", {"m.relates_to": {"rel_type": "m.thread", "event_id": "$\0"}})
        room.say("after")
        room_id = self.adopt(room)
        self.assertEqual(list(room.events)[::-1], self.ids(self.pages(room_id)))
