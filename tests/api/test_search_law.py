"""Search against a naive one: all that the searcher is shown of their rooms, word by word.

What may be seen at all is taken from ``/messages``, which has a test of its own against the rules
(``test_history_visibility.py``).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from homeserver.rooms.reads import search
from homeserver.store import search_hits
from tests.api.talk import V3, user
from tests.api.test_search import SearchCase
from tests.support.databases import on_each_database

WORDS = ("fish", "fishes", "fishing", "soup", "sou", "to", "tomorrow", "Fïsh")
KEYS = {"m.room.message": "body", "m.room.name": "name", "m.room.topic": "topic"}
ROOMS = (0, 1, 2)

room = st.sampled_from(ROOMS)
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
speaker = st.sampled_from(("alice", "carol"))
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), room, speaker, words),
        st.tuples(st.just("say"), room, speaker, words),
        st.tuples(st.just("picture"), room, speaker, words),
        st.tuples(st.sampled_from(("join", "leave")), room),
        st.tuples(st.sampled_from(("name", "topic")), room, words),
        st.tuples(st.just("visibility"), room, st.sampled_from(("joined", "shared", "world_readable"))),
        st.tuples(st.just("redact"), st.integers(0, 30)),
        st.tuples(st.sampled_from(("ignore", "forgive"))),
    ),
    min_size=5,
    max_size=25,
)
QUESTIONS = st.fixed_dictionaries(
    {"search_term": st.lists(st.sampled_from(WORDS), min_size=1, max_size=2).map(" ".join)},
    optional={
        "keys": st.lists(st.sampled_from([f"content.{key}" for key in KEYS.values()]), max_size=2),
        "order_by": st.sampled_from(("recent", "rank")),
        "filter": st.fixed_dictionaries(
            {"limit": st.integers(1, 4)},
            optional={
                "rooms": st.lists(room, max_size=2),
                "not_rooms": st.lists(room, max_size=1),
                "senders": st.lists(speaker, max_size=1),
                "not_senders": st.lists(speaker, max_size=1),
                "types": st.lists(st.sampled_from((*KEYS, "m.room.*")), max_size=2),
                "not_types": st.lists(st.sampled_from(tuple(KEYS)), max_size=1),
                "contains_url": st.booleans(),
            },
        ),
    },
)
# As they are, and so small that every page is put together from several.
WINDOWS = st.sampled_from(((100, 500, 4, 16, 4), (2, 3, 1, 1, 0), (2, 3, 1, 1, 4)))


@dataclass(frozen=True, slots=True)
class Scene:
    """What was said, in the order of time, and to whom the searcher listens."""

    rooms: list[str]
    order: list[str]


def has_word(text: str, wanted: str) -> bool:
    """Whether it stands there, or from three letters on something that begins so."""
    plain = wanted.lower().replace("ï", "i")
    found = re.findall(r"\w+", text.lower().replace("ï", "i"))
    return any(word == plain or (len(plain) >= 3 and word.startswith(plain)) for word in found)


def passes(event: dict[str, Any], room_id: str, wanted: dict[str, Any]) -> bool:
    """Whether an event passes a filter."""

    def fits(key: str, value: str, like: Callable[[str, str], bool]) -> bool:
        some, none = wanted.get(key), wanted.get(f"not_{key}", [])
        return (some is None or any(like(value, one) for one in some)) and not any(
            like(value, one) for one in none
        )

    def like_type(value: str, one: str) -> bool:
        return value.startswith(one[:-1]) if one.endswith("*") else value == one

    has_url = isinstance(event["content"].get("url"), str)
    return (
        fits("rooms", room_id, str.__eq__)
        and fits("senders", event["sender"], str.__eq__)
        and fits("types", event["type"], like_type)
        and wanted.get("contains_url", has_url) == has_url
    )


@on_each_database
class AgainstModel(SearchCase):
    """See the module."""

    def setUp(self) -> None:
        super().setUp()
        self.add("carol")
        self._searchers = itertools.count()

    # Without shrinking, which takes minutes here: what fails is short enough.
    @settings(
        max_examples=25,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(ACTIONS, st.lists(QUESTIONS, min_size=3, max_size=6), WINDOWS)
    def test_found_is_what_a_naive_search_finds(
        self, actions: list[Any], questions: list[dict[str, Any]], sizes: tuple[int, ...]
    ) -> None:
        name = f"bob{next(self._searchers)}"
        self.add(name)
        scene = self.play(name, actions)
        history = self.histories(name, scene)
        first, window, matches, glance, few = sizes
        with (
            mock.patch.multiple(search, _FIRST=first, _WINDOW=window),
            mock.patch.multiple(
                search_hits,
                _MATCHES_EACH=matches,
                _GLANCE_EACH=glance,
                _TEXTS_EACH=2 * glance,
                _FEW_ROOMS=few,
            ),
        ):
            for question in questions:
                self.compare(name, scene, history, self.named(question, scene), is_small=first < 100)

    def play(self, name: str, actions: list[Any]) -> Scene:
        """Do it, as far as it is possible."""
        rooms = [self.make_room(joined=("carol", name)), self.make_room(joined=("carol",)), self.make_room()]
        self.join("carol", rooms[2])
        order: list[str] = []
        said: list[tuple[str, str, str]] = []
        for action, *rest in actions:
            room_id = rooms[rest[0]] if rest and action != "redact" else ""
            if action in ("say", "picture"):
                content = {"msgtype": "m.text", "body": rest[2]}
                if action == "picture":
                    content |= {"msgtype": "m.image", "url": "mxc://elsewhere.example/picture"}
                status, json = self.send(rest[1], room_id, content)
                self.assertEqual(200, status, json)
                order.append(json["event_id"])
                said.append((rest[1], room_id, json["event_id"]))
            elif action in ("name", "topic"):
                order.append(self.set_state("alice", room_id, f"m.room.{action}", {action: rest[1]}))
            elif action == "visibility":
                content = {"history_visibility": rest[1]}
                self.set_state("alice", room_id, "m.room.history_visibility", content)
            elif action == "join":
                self.join(name, room_id)
            elif action == "leave":
                self.put_state(name, room_id, "m.room.member", {"membership": "leave"}, user(name))
            elif action == "redact" and rest[0] < len(said):
                who, where, event_id = said[rest[0]]
                self._texts += 1
                path = self.path(where, "redact", event_id, f"redaction{self._texts}")
                self.app.ok("PUT", path, {}, self.tokens[who])
            elif action in ("ignore", "forgive"):
                ignored: dict[str, Any] = {user("carol"): {}} if action == "ignore" else {}
                path = f"{V3}/user/{user(name)}/account_data/m.ignored_user_list"
                self.app.ok("PUT", path, {"ignored_users": ignored}, self.tokens[name])
            # So that no two are said at the same moment.
            self.app.advance(1)
        return Scene(rooms, order)

    def histories(self, name: str, scene: Scene) -> dict[str, list[dict[str, Any]]]:
        """What the searcher is shown of each room that they were in, the oldest first."""
        found: dict[str, list[dict[str, Any]]] = {}
        for room_id in scene.rooms:
            was_there = self.app.app.core.index.standing(self._nid(name), self._room_nid(room_id))
            status, page = self.get(name, self.path(room_id, "messages"), dir="b", limit=1000)
            if status == 200 and was_there is not None:
                self.assertLess(len(page["chunk"]), 1000)
                found[room_id] = page["chunk"][::-1]
        return found

    def _nid(self, name: str) -> int:
        nid = self.app.app.core.interner.known_user(user(name))
        assert nid is not None
        return nid

    def _room_nid(self, room_id: str) -> int:
        nid = self.app.app.core.interner.known_room(room_id)
        assert nid is not None
        return nid

    def named(self, question: dict[str, Any], scene: Scene) -> dict[str, Any]:
        """The question with the names of this scene, and with all that can be asked for besides."""
        wanted = dict(question.get("filter", {"limit": 2}))
        for key in ("rooms", "not_rooms"):
            if key in wanted:
                wanted[key] = [scene.rooms[number] for number in wanted[key]]
        for key in ("senders", "not_senders"):
            if key in wanted:
                wanted[key] = [user(one) for one in wanted[key]]
        groupings = {"group_by": [{"key": "room_id"}, {"key": "sender"}]}
        context = {"before_limit": 1, "after_limit": 1, "include_profile": True}
        return {**question, "filter": wanted, "groupings": groupings, "event_context": context}

    def compare(
        self,
        name: str,
        scene: Scene,
        history: dict[str, list[dict[str, Any]]],
        question: dict[str, Any],
        *,
        is_small: bool,
    ) -> None:
        """All pages of a search, and all of its groups."""
        keys = question.get("keys", [f"content.{key}" for key in KEYS.values()])
        expected = {
            event["event_id"]: (room_id, event["sender"])
            for room_id, events in history.items()
            for event in events
            if f"content.{KEYS.get(event['type'])}" in keys
            and passes(event, room_id, question["filter"])
            and all(
                has_word(event["content"].get(KEYS[event["type"]], ""), word)
                for word in question["search_term"].split()
            )
        }
        pages = self.pages(name, question, None)
        results = [result for page in pages for result in page["results"]]
        ids = [one["result"]["event_id"] for one in results]
        newest_first = sorted(expected, key=scene.order.index, reverse=True)
        self.assertEqual(sorted(expected), sorted(ids), question)
        if question.get("order_by") == "recent":
            self.assertEqual(newest_first, ids)
        elif not is_small:
            ranks = [-one["rank"] for one in results]
            self.assertEqual(sorted(ranks), ranks)
        if not is_small:
            self.assertEqual(len(expected), pages[0]["count"])
        for result in results:
            self.check_context(history, result)
        seen: set[tuple[str, str]] = set()
        for page in pages:
            self.assertLessEqual(len(page["results"]), question["filter"]["limit"])
            for place, key in enumerate(("room_id", "sender")):
                for group, found in page["groups"][key].items():
                    of_page = [one for one in page["results"] if one["result"][key] == group]
                    self.assertEqual([one["result"]["event_id"] for one in of_page], found["results"])
                    if (key, group) not in seen:
                        seen.add((key, group))
                        more = (
                            self.pages(name, question, found["next_batch"]) if "next_batch" in found else []
                        )
                        rest = [
                            one["result"]["event_id"]
                            for one in itertools.chain(*(one["results"] for one in more))
                        ]
                        of_group = [one for one, named in expected.items() if named[place] == group]
                        self.assertEqual(
                            sorted(of_group), sorted([*found["results"], *rest]), (key, question)
                        )

    def pages(self, name: str, question: dict[str, Any], token: str | None) -> list[Any]:
        """Every page from a token on."""
        found: list[Any] = []
        while token is not None or not found:
            found.append(self.find(name, token=token, **question))
            token = found[-1].get("next_batch")
            self.assertLess(len(found), 200)
        return found

    def check_context(self, history: dict[str, list[dict[str, Any]]], result: dict[str, Any]) -> None:
        """The neighbours are those that the room's history shows."""
        event, context = result["result"], result["context"]
        events = [one["event_id"] for one in history[event["room_id"]]]
        at = events.index(event["event_id"])
        self.assertEqual(events[max(at - 1, 0) : at], [one["event_id"] for one in context["events_before"]])
        self.assertEqual(events[at + 1 : at + 2], [one["event_id"] for one in context["events_after"]])
        shown = [event, *context["events_before"], *context["events_after"]]
        self.assertEqual({one["sender"] for one in shown}, set(context["profile_info"]))
