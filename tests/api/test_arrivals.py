"""Events from elsewhere against a model that knows nothing of storage: forks, verdicts, the head, the current state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from federation.auth.select import CREATE, StateKey
from federation.builder import Draft
from federation.checks import AuthEvents, check_auth_events, check_state_before, lookup_of
from federation.event import MAX_PREV_EVENTS, Event, parse_stored
from federation.ids import EventId, RoomId, UserId
from federation.redaction import redact
from federation.state.resolve import resolve
from federation.verdict import ACCEPT, Accept, Drop, Reject, SoftFail
from homeserver.http.errors import MatrixError
from homeserver.rooms.arrivals import (
    AlreadyHere,
    Arrival,
    Arrived,
    Missing,
    Placed,
    adopt_room,
    arrive,
    store_outliers,
)
from homeserver.rooms.turn import Turn
from tests.api.talk import V3, user
from tests.support.app import TestApp
from tests.support.databases import SQLITE, DatabaseCase, on_each_database
from tests.support.peer import FakePeer
from tests.support.peer_rooms import PeerRoom
from tests.unit.federation.state.graphs import MemoryGraph

VERSIONS = ("12", "11", "9", "6", "2", "1")
SEEDS = range(1, 7)
STEPS = 45


class Model:
    """What the specification makes of the events of one room, in the order in which they come."""

    def __init__(self, room: PeerRoom) -> None:
        self.rules = room.rules
        self.events: dict[str, Event] = {}
        self.after: dict[str, dict[StateKey, str]] = {}
        self.rejected: set[str] = set()
        self.hidden: set[str] = set()
        self.newest: set[str] = set()
        self.current: dict[StateKey, str] = {}
        for event in room.events.values():
            self.take(event)

    def state_after(self, event_ids: Sequence[str]) -> dict[StateKey, str]:
        states: list[Mapping[StateKey, str]] = [self.after[one] for one in event_ids]
        return dict(resolve(self.rules, states, MemoryGraph(self.events, self.rejected)))

    def take(self, event: Event) -> type:
        """The kind of verdict; the event is taken in."""
        before = self.state_after(event.prev_event_ids)
        verdict = self._judge(event, before)
        self.events[event.event_id] = event
        after = dict(before)
        if event.state_key is not None and verdict is not Reject:
            after[event.key()] = event.event_id
        self.after[event.event_id] = after
        if verdict is Reject:
            self.rejected.add(event.event_id)
        if verdict is not Accept:
            self.hidden.add(event.event_id)
            return verdict
        covered, waiting = set(), list(event.prev_event_ids)
        while waiting:
            parent = waiting.pop()
            covered.add(parent)
            if parent in self.hidden:
                waiting.extend(self.events[parent].prev_event_ids)
        self.newest = (self.newest - covered) | {event.event_id}
        self.current = self.state_after(sorted(self.newest))
        return verdict

    def _judge(self, event: Event, before: Mapping[StateKey, str]) -> type:
        cited = [self.events[one] for one in event.auth_event_ids]
        create = next((one for one in self.events.values() if one.type == "m.room.create"), None)
        if isinstance(
            check_auth_events(event, AuthEvents(cited, frozenset(map(EventId, self.rejected)), create)),
            Reject,
        ):
            return Reject
        for state, failure in ((before, Reject), (self.current, SoftFail)):
            found = {key: self.events[one] for key, one in state.items()}
            if event.type != "m.room.create" and isinstance(
                check_state_before(event, lookup_of(found)), Reject
            ):
                return failure
        return Accept


class ArrivalCase(DatabaseCase):
    """A server with alice, a room of hers, and a peer whose mallory has as much power as she has."""

    def setUp(self) -> None:
        self.app = TestApp(self, "sqlite::memory:" if self.dialect == SQLITE else self.new_database())
        self.token = self.app.register("alice")
        self.peer = FakePeer()

    def make_room(self, version: str) -> PeerRoom:
        body: dict[str, Any] = {"preset": "public_chat", "room_version": version}
        room_id = self.app.ok("POST", f"{V3}/createRoom", body, self.token)["room_id"]
        room = self.peer.follow(self.app, room_id)
        self.place(room, room.join())
        levels = {"users": {self.peer.user(): 100, user("alice"): 100}, "kick": 50, "ban": 50, "invite": 0}
        if room.rules.privileged_creators:
            del levels["users"][user("alice")]  # type: ignore[attr-defined]
        self.app.ok("PUT", f"{V3}/rooms/{room_id}/state/m.room.power_levels", levels, self.token)
        return self.peer.follow(self.app, room_id)

    def run_job(self, room_id: str, job: Any) -> Any:
        async def find() -> Any:
            return await (await self.app.app.core.rooms.find(room_id)).run(job)

        return self.app.wait(Deferred.fromCoroutine(find()))

    def place(
        self, room: PeerRoom, *events: Event | Arrival, outliers: Sequence[Event] = ()
    ) -> list[Arrived]:
        arrivals = [one if isinstance(one, Arrival) else Arrival(one) for one in events]

        async def job(turn: Turn) -> list[Arrived]:
            return await arrive(turn, arrivals, outliers)

        return self.run_job(room.room_id, job)

    def head(self, room_id: str) -> tuple[set[str], dict[StateKey, str]]:
        """The newest events and the current state, by ids."""

        async def job(turn: Turn) -> tuple[set[str], dict[StateKey, str]]:
            state = turn.head.snapshot.as_dict()
            names = await turn.tools.interner.key_names(state)
            events = await turn.events(list(state.values()))
            newest: set[str] = {one.reference.event_id for one in turn.head.extremities}
            return newest, {names[key]: events[nid].event_id for key, nid in state.items()}

        return self.run_job(room_id, job)

    def verdict(self, arrived: Arrived) -> type:
        assert isinstance(arrived, Placed), arrived
        return type(arrived.verdict)


def draw_event(room: PeerRoom, random: Random, names: Sequence[str]) -> Event:
    """Somebody does something on some of the later events; often what they may not do."""
    ids = list(room.events)
    parents = {
        EventId(ids[-1 - random.randrange(min(6, len(ids)))]) for _ in range(random.choice((1, 1, 2, 3)))
    }
    chosen = sorted(parents)
    sender, target = random.choice(names), random.choice(names)
    ts = 1_700_000_000_000 + random.randrange(50_000)
    match random.randrange(8):
        case 0 | 1:
            return room.say("hello", sender=sender, prev=chosen, ts=ts)
        case 2:
            return room.add(
                "m.room.topic", {"topic": str(ts)}, sender=sender, state_key="", prev=chosen, ts=ts
            )
        case 3:
            return room.join(sender, prev=chosen, ts=ts)
        case 4:
            levels = {
                "users": {name: random.choice((0, 50, 100)) for name in random.sample(names, 2)},
                "state_default": 50,
            }
            return room.add("m.room.power_levels", levels, sender=sender, state_key="", prev=chosen, ts=ts)
        case 5:
            rule = {"join_rule": random.choice(("public", "invite"))}
            return room.add("m.room.join_rules", rule, sender=sender, state_key="", prev=chosen, ts=ts)
        case _:
            member = {"membership": random.choice(("leave", "ban", "invite"))}
            return room.add("m.room.member", member, sender=sender, state_key=target, prev=chosen, ts=ts)


@on_each_database
class Stories(ArrivalCase):
    """Random graphs, in any order that parents allow, in bundles of any size."""

    def _story(self, version: str, seed: int) -> None:
        random = Random(f"{version} {seed}")
        room = self.make_room(version)
        model = Model(room)
        names = [self.peer.user(name) for name in ("mallory", "eve", "dave")]
        waiting: list[Event] = []
        for step in range(STEPS):
            waiting.append(draw_event(room, random, names))
            if random.random() < 0.1:
                self.app.restart()
            if random.random() < 0.6 and step < STEPS - 1:
                continue
            for event, arrived in zip(waiting, self.place(room, *waiting), strict=True):
                self.assertIs(self.verdict(arrived), model.take(event), f"{version} {seed}: {event.json}")
            waiting.clear()
            newest, state = self.head(room.room_id)
            self.assertEqual(newest, model.newest)
            self.assertEqual(state, model.current)
            if random.random() < 0.3:
                self._speak(room, model)

    def _speak(self, room: PeerRoom, model: Model) -> None:
        """Alice says something on top of it all, if she still may."""
        path = f"{V3}/rooms/{room.room_id}/send/m.room.message/{len(model.events)}"
        status, answer = self.app.call("PUT", path, {"body": "hi", "msgtype": "m.text"}, self.token)
        if status != 200:
            self.assertEqual((status, answer["errcode"]), (403, "M_FORBIDDEN"))
            return
        newest = set(model.newest)
        self.peer.follow(self.app, room.room_id)
        event = room.events[answer["event_id"]]
        self.assertEqual(set(event.prev_event_ids), newest)
        self.assertIs(model.take(event), Accept)


def _add_stories() -> None:
    for version in VERSIONS:
        for seed in SEEDS:

            def story(self: Any, version: str = version, seed: int = seed) -> None:
                self._story(version, seed)

            for made in (f"StoriesOn{name}" for name in ("Sqlite", "Postgresql")):
                if made in globals():
                    setattr(globals()[made], f"test_version_{version}_seed_{seed}", story)


_add_stories()


@on_each_database
class Places(ArrivalCase):
    """Where single events go."""

    def test_the_same_event_again_is_here_already(self) -> None:
        room = self.make_room("11")
        event = room.say("once")
        first, again = self.place(room, event, event)
        self.assertEqual((self.verdict(first), type(again)), (Accept, AlreadyHere))
        self.assertIsInstance(self.place(room, event)[0], AlreadyHere)

    def test_what_misses_something_is_not_stored(self) -> None:
        room = self.make_room("11")
        parent, child = room.say("parent"), room.say("child")
        self.assertEqual(self.place(room, child), [Missing((parent.event_id,), ())])
        self.assertEqual(self.head(room.room_id)[0], set(parent.prev_event_ids))
        placed = self.place(room, parent, child)
        self.assertEqual([self.verdict(one) for one in placed], [Accept, Accept])

    def test_a_gap_is_jumped_and_filled(self) -> None:
        room = self.make_room("11")
        top = room.head[0]
        lost = room.add("m.room.topic", {"topic": "lost"}, state_key="")
        jump = room.say("far ahead")
        state = tuple(room.after[lost.event_id].values())
        self.assertIsInstance(self.place(room, Arrival(jump, states=(state,)))[0], Missing)
        placed = self.place(room, Arrival(jump, states=(state,)), outliers=[lost])
        self.assertIs(self.verdict(placed[0]), Accept)
        newest, current = self.head(room.room_id)
        self.assertEqual(newest, {jump.event_id, top}, "whoever tells a state does not end what we know")
        self.assertEqual(current[("m.room.topic", "")], lost.event_id)
        self.assertIs(self.verdict(self.place(room, lost)[0]), Accept)
        self.assertEqual(
            self.head(room.room_id)[0], {jump.event_id, lost.event_id}, "what fills the gap counts"
        )
        path = f"{V3}/rooms/{room.room_id}/send/m.room.message/1"
        self.app.ok("PUT", path, {"body": "merged", "msgtype": "m.text"}, self.token)
        self.assertEqual(len(self.head(room.room_id)[0]), 1)

    def test_what_is_stored_of_an_outlier_stays(self) -> None:
        room = self.make_room("11")
        for first_is_whole in (True, False):
            whole = room.add("m.room.topic", {"topic": str(first_is_whole)}, state_key="")
            # Whoever relays it may change what its hash covers: then it goes on redacted, with the same id.
            bare = parse_stored(whole.event_id, redact(whole.json, room.rules), room.rules)
            first, second = (whole, bare) if first_is_whole else (bare, whole)
            since = self.app.ok("GET", f"{V3}/sync", None, self.token)["next_batch"]
            self.place(room, second, outliers=[first])
            told = self.app.ok("GET", f"{V3}/sync", None, self.token, {"since": since})["rooms"]["join"]
            self.assertEqual(first.content, told[room.room_id]["timeline"]["events"][-1]["content"])
            for _ in range(2):
                topic = self.run_job(room.room_id, lambda turn: turn.state("m.room.topic"))
                self.assertEqual(first.content, topic.content)
                self.app.restart()

    def test_history_goes_where_it_was_missing(self) -> None:
        room = self.make_room("11")
        events = [room.say(str(number)) for number in range(4)]
        whole = tuple(room.after[events[-1].event_id].values())
        self.place(room, Arrival(events[-1], states=(whole,)))
        before = self.head(room.room_id)
        self.assertEqual(len(before[0]), 2)
        placed = self.place(room, *(Arrival(one, historic=True) for one in events[:-1]))
        self.assertEqual({self.verdict(one) for one in placed}, {Accept})
        self.assertEqual(self.head(room.room_id), before)
        page = self.app.ok("GET", f"{V3}/rooms/{room.room_id}/messages?dir=b&limit=50", None, self.token)
        ids = [one["event_id"] for one in page["chunk"]]
        self.assertEqual(ids[:4], [one.event_id for one in reversed(events)])

    def test_names_with_nul(self) -> None:
        room = self.make_room("11")
        event = room.add("a\0b\\0", {"c\0": "\0"}, state_key="\0\\\x01")
        self.assertIs(self.verdict(self.place(room, event)[0]), Accept)
        self.app.restart()
        self.assertEqual(self.head(room.room_id)[1][("a\0b\\0", "\0\\\x01")], event.event_id)
        again = room.add("a\0b\\0", {}, state_key="\0\\\x01")
        self.place(room, again)
        self.assertEqual(self.head(room.room_id)[1][("a\0b\\0", "\0\\\x01")], again.event_id)

    def test_events_of_two_rooms_do_not_mix(self) -> None:
        room, other = self.make_room("11"), self.make_room("11")
        stray = other.say("of the other room")
        self.place(other, stray)
        prev = room.make("m.room.message", {}, prev=[stray.event_id])
        auth = room.make("m.room.message", {}, auth=[*list(room.state.values())[:1], stray.event_id])
        found = self.place(room, stray, prev, auth)
        self.assertEqual([self.verdict(one) for one in found], [Drop, Drop, Reject])

    def test_a_redaction_before_and_after_its_target(self) -> None:
        room = self.make_room("11")
        fork = list(room.head)
        target = room.say("spoken too soon")
        early = room.add("m.room.redaction", {"redacts": target.event_id}, prev=fork)
        late_target = room.say("kept", sender=room.peer.user())
        stranger = room.join(self.peer.user("eve"))
        weak = room.add("m.room.redaction", {"redacts": late_target.event_id}, sender="@eve:peer.example")
        other = FakePeer("third.example")
        self.place(room, early, target, late_target, stranger, weak)
        page = self.app.ok("GET", f"{V3}/rooms/{room.room_id}/messages?dir=b&limit=20", None, self.token)
        contents = {one["event_id"]: one["content"] for one in page["chunk"]}
        self.assertEqual(contents[target.event_id], {})
        self.assertEqual(contents[late_target.event_id], {}, "a user of the same server may, says version 3")
        self.assertNotEqual(other.server_name, self.peer.server_name)

    def test_what_was_redacted_before_it_came_is_not_counted(self) -> None:
        room = self.make_room("11")
        self.assertEqual(0, self.unread(room))
        fork = list(room.head)
        target = room.say("spoken too soon")
        early = room.add("m.room.redaction", {"redacts": target.event_id}, prev=fork)
        self.place(room, early)
        self.place(room, target)
        self.assertEqual(0, self.unread(room))
        self.place(room, room.say("counts"))
        self.assertEqual(1, self.unread(room))

    def unread(self, room: PeerRoom) -> int:
        found = self.app.ok("GET", f"{V3}/sync", None, self.token)["rooms"]["join"][room.room_id]
        count: int = found["unread_notifications"]["notification_count"]
        return count

    def test_many_forks_are_joined_twenty_at_a_time(self) -> None:
        room = self.make_room("11")
        fork = list(room.head)
        events = [
            room.add("m.room.topic", {"topic": str(number)}, state_key="", prev=fork) for number in range(25)
        ]
        self.place(room, *events)
        self.assertEqual(len(self.head(room.room_id)[0]), 25)
        for text in ("one", "two"):
            path = f"{V3}/rooms/{room.room_id}/send/m.room.message/{text}"
            self.app.ok("PUT", path, {"body": text, "msgtype": "m.text"}, self.token)
        newest, state = self.head(room.room_id)
        self.assertEqual(len(newest), 1)
        self.assertIn(state[("m.room.topic", "")], {one.event_id for one in events})

    def test_what_is_refused_on_many_forks_loses_none_of_them(self) -> None:
        """The job goes on, as an upgrade does where it may not change everything."""
        room = self.make_room("11")
        fork, forks = list(room.head), 2 * MAX_PREV_EVENTS + 5
        self.place(room, *(room.say(str(number), prev=fork) for number in range(forks)))
        room_id, alice, bob = RoomId(room.room_id), UserId(user("alice")), UserId(user("bob"))
        before = self.head(room_id)

        async def job(turn: Turn) -> None:
            with self.assertRaises(MatrixError):
                await turn.place(Draft(room_id, "m.room.topic", bob, {"topic": "mine"}, ""))
            await turn.place(Draft(room_id, "m.room.message", alice, {"body": "x", "msgtype": "m.text"}))

        self.run_job(room_id, job)
        newest, state = self.head(room_id)
        self.assertEqual(forks - MAX_PREV_EVENTS + 1, len(newest))
        self.assertEqual(before[1], state)


@on_each_database
class Rooms(ArrivalCase):
    """Rooms that begin elsewhere."""

    def _adopt(self, room: PeerRoom, version: str, prev: Sequence[EventId] | None = None) -> Event:
        alice = user("alice")
        state = list((room.state if prev is None else room.state_after(prev)).values())
        join = room.join(alice, prev=prev)
        known = [room.events[one] for one in room.events if one != join.event_id]
        rooms = self.app.app.core.rooms
        actor = rooms.known(room.room_id) or rooms.start(room.room_id, version)

        async def store(turn: Turn) -> None:
            await store_outliers(turn, [event for event in known if event.is_state()])

        async def adopt(turn: Turn) -> Arrived:
            return await adopt_room(turn, join, state)

        self.app.wait(actor.run(store))
        placed = self.app.wait(actor.run(adopt))
        assert isinstance(placed, Placed)
        self.assertEqual(placed.verdict, ACCEPT, version)
        return join

    def test_a_room_of_each_version_is_joined_and_spoken_in(self) -> None:
        for version in VERSIONS:
            peer = FakePeer(f"peer{version}.example")
            room = peer.create(version)
            room.say("before")
            join = self._adopt(room, version)
            self.assertEqual(self.head(room.room_id), ({join.event_id}, dict(room.state)))
            path = f"{V3}/rooms/{room.room_id}/send/m.room.message/1"
            self.app.ok("PUT", path, {"body": "hello", "msgtype": "m.text"}, self.token)
            joined = self.app.ok("GET", f"{V3}/sync", None, self.token)["rooms"]["join"][room.room_id]
            self.assertEqual(joined["timeline"]["events"][-1]["content"]["body"], "hello")
            peer.follow(self.app, room.room_id)
            self.place(room, room.say("welcome"))

    def test_a_room_that_was_left_is_joined_again(self) -> None:
        peer = FakePeer("old.example")
        room = peer.create("11")
        self._adopt(room, "11")
        self.app.ok("POST", f"{V3}/rooms/{room.room_id}/leave", {}, self.token)
        peer.follow(self.app, room.room_id)
        room.say("while she was away")
        room.add("m.room.name", {"name": "New"}, state_key="")
        join = self._adopt(room, "11")
        self.app.restart()
        newest, state = self.head(room.room_id)
        self.assertEqual((newest, state), ({join.event_id}, dict(room.state)))
        joined = self.app.ok("GET", f"{V3}/sync", None, self.token)["rooms"]["join"][room.room_id]
        self.assertEqual(joined["timeline"]["events"][-1]["event_id"], join.event_id)

    def test_a_second_create_event(self) -> None:
        """Resolution would take it for the room's: with it nobody else's server could be in the room."""
        for version in ("1", "2", "10", "11"):
            peer = FakePeer(f"peer{version}.example")
            room = peer.create(version)
            self._adopt(room, version)
            before = self.head(room.room_id)
            content = {"room_version": version, "m.federate": False, "creator": peer.user("mallory")}
            second = room.make(
                "m.room.create",
                content,
                sender=peer.user("mallory"),
                state_key="",
                prev=[],
                auth=[],
                depth=99,
            )
            self.assertEqual(
                Placed(0, Drop("the room has another create event")), self.place(room, second)[0]
            )
            # Nor behind something that rests on it.
            auth = [second.event_id]
            join = room.make(
                "m.room.member",
                {"membership": "join"},
                sender=peer.user("mallory"),
                state_key=peer.user("mallory"),
                prev=[second.event_id],
                auth=auth,
            )
            (arrived,) = self.place(room, join, outliers=[second])
            self.assertIsInstance(arrived, Missing)
            self.assertEqual(before, self.head(room.room_id))

    def _left_after_carol_came(self) -> tuple[PeerRoom, UserId, list[EventId], Event]:
        """A room that we have left; a user of a third server, the room's ends before she came, and her join."""
        room = FakePeer("old.example").create("11")
        carol = FakePeer("new.example").user("carol")
        self._adopt(room, "11")
        before = list(room.head)
        joined = room.join(carol, prev=before)
        self.place(room, joined)
        self.app.ok("POST", f"{V3}/rooms/{room.room_id}/leave", {}, self.token)
        return room, carol, before, joined

    def test_who_came_in_before_we_left_is_there_although_the_others_do_not_know_yet(self) -> None:
        """We come back through a server that has not heard of her join; her words stand on it."""
        room, carol, before, joined = self._left_after_carol_came()
        self._adopt(room, "11", before)
        self.assertNotIn(("m.room.member", carol), self.head(room.room_id)[1])
        said = room.say("hello", sender=carol, prev=[joined.event_id])
        self.assertIs(Accept, self.verdict(self.place(room, said)[0]))
        self.assertEqual(joined.event_id, self.head(room.room_id)[1][("m.room.member", carol)])

    def test_who_was_put_out_while_we_were_away_stays_out(self) -> None:
        room, carol, _, joined = self._left_after_carol_came()
        room.add("m.room.member", {"membership": "ban"}, state_key=carol, prev=[joined.event_id])
        self._adopt(room, "11", list(room.head))
        said = room.say("hello", sender=carol, prev=[joined.event_id])
        self.assertIs(SoftFail, self.verdict(self.place(room, said)[0]))


class ModelTests(TestCase):
    """The model itself can tell."""

    def test_verdicts_differ(self) -> None:
        peer = FakePeer()
        room = peer.create("11")
        room.join("@eve:peer.example")
        model = Model(room)
        bad = room.add("m.room.name", {"name": "x"}, sender="@eve:peer.example", state_key="")
        self.assertIs(model.take(bad), Reject)
        self.assertNotIn(("m.room.name", ""), model.current)
        self.assertIn(CREATE, model.current)
