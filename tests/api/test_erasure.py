"""A user is erased: those who come later see their events redacted, everywhere; those who were there see them whole.

spec: client-server-api#post_matrixclientv3accountdeactivate
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.store.erasures import ErasedUsers
from homeserver.store.foreign import load_foreign
from tests.api.talk import V3, TalkCase, user
from tests.support.databases import on_each_database

V1 = "/_matrix/client/v1"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
PASSWORD = "correct horse"


class ErasureCase(TalkCase):
    """Bob is erased; carol was there, dave comes later."""

    def setUp(self) -> None:
        super().setUp()
        self.add("carol")
        self.add("dave")

    def erase(self, name: str = "bob", *, erase: bool = True) -> None:
        """The account ends, and its user leaves everywhere."""
        auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}}
        body = {"auth": {**auth, "password": PASSWORD}, "erase": erase}
        self.app.ok("POST", f"{V3}/account/deactivate", body, self.tokens[name])
        self.pump()

    def pump(self) -> None:
        """Let what runs in the background come to its end."""
        self.app.advance(0)
        for _ in range(100):
            self.app.time.advance(0)

    def relate(self, name: str, room_id: str, rel_type: str, target_id: str, body: str) -> str:
        relation = {"rel_type": rel_type, "event_id": target_id}
        text = {"msgtype": "m.text", "body": body}
        status, json = self.send(name, room_id, {**text, "m.new_content": text, "m.relates_to": relation})
        self.assertEqual(200, status, json)
        self.app.advance(1)
        event_id: str = json["event_id"]
        return event_id

    def by_id(self, events: list[Any]) -> dict[str, Any]:
        return {event["event_id"]: event["content"] for event in events}


@on_each_database
class Erasure(ErasureCase):
    """See the module."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(joined=("carol",))
        self.join("bob", self.room_id, displayname="Bob", avatar_url="mxc://test.example/face")
        self.member = self.page("carol", self.room_id, limit=1)["chunk"][0]["event_id"]
        self.said = self.say("bob", self.room_id, "my secret plan")
        self.set_state("alice", self.room_id, "m.room.power_levels", self.levels())

    def levels(self, **more: int) -> dict[str, Any]:
        return {"users": {user("alice"): 100, user("bob"): 100}, **more}

    def come(self) -> None:
        """Bob is erased, dave comes."""
        self.erase()
        self.join("dave", self.room_id)

    def whole_and_erased(self, path: str, *, found: str, **query: Any) -> tuple[Any, Any]:
        return self.ok("carol", path, **query)[found], self.ok("dave", path, **query)[found]

    def test_history(self) -> None:
        self.come()
        whole, erased = self.whole_and_erased(
            self.path(self.room_id, "messages"), found="chunk", dir="b", limit=50
        )
        self.assertEqual("my secret plan", self.by_id(whole)[self.said]["body"])
        self.assertEqual({}, self.by_id(erased)[self.said])
        self.assertEqual("Bob", self.by_id(whole)[self.member]["displayname"])
        self.assertEqual({"membership": "join"}, self.by_id(erased)[self.member])
        left = next(one for one in erased if one["content"] == {"membership": "leave"})
        self.assertEqual({"membership": "join"}, left["unsigned"]["prev_content"])
        self.assertNotIn("secret", msgspec.json.encode(erased).decode())

    def test_one_event_and_what_is_around_it(self) -> None:
        self.come()
        for name, content in (("carol", {"msgtype": "m.text", "body": "my secret plan"}), ("dave", {})):
            event = self.ok(name, self.path(self.room_id, "event", self.said))
            self.assertEqual((content, user("bob")), (event["content"], event["sender"]))
            context = self.ok(name, self.path(self.room_id, "context", self.said), limit=2)
            self.assertEqual(content, context["event"]["content"])
            members = {one["state_key"]: one["content"] for one in context["state"]}
            self.assertEqual(content == {}, "displayname" not in members[user("bob")])

    def test_names_beside_what_is_found(self) -> None:
        self.app.app.begin()
        self.say("alice", self.room_id, "a picnic")
        self.say("bob", self.room_id, "said before he goes")
        self.come()
        around = {"before_limit": 5, "after_limit": 5, "include_profile": True}
        asked = {"room_events": {"search_term": "picnic", "event_context": around}}
        for name, shown in (("carol", True), ("dave", False)):
            (found,) = self.app.ok("POST", f"{V3}/search", {"search_categories": asked}, self.tokens[name])[
                "search_categories"
            ]["room_events"]["results"]
            profiles = found["context"]["profile_info"]
            self.assertEqual({"displayname": "Alice"}, profiles[user("alice")])
            self.assertEqual(shown, "displayname" in profiles[user("bob")])
            self.assertEqual(shown, "avatar_url" in profiles[user("bob")])

    def test_members_of_the_past(self) -> None:
        token = self.ok("carol", f"{V3}/sync")["next_batch"]
        self.come()
        for name, whole in (("carol", True), ("dave", False)):
            chunk = self.ok(name, self.path(self.room_id, "members"), at=token)["chunk"]
            members = {one["state_key"]: one["content"] for one in chunk}
            self.assertEqual(whole, members[user("bob")].get("displayname") == "Bob")
            lazy = msgspec.json.encode({"lazy_load_members": True}).decode()
            page = self.page(name, self.room_id, limit=50, filter=lazy, **{"from": token})
            senders = {one["state_key"]: one["content"] for one in page["state"]}
            self.assertEqual(whole, senders[user("bob")].get("displayname") == "Bob")

    def test_sync(self) -> None:
        since = self.ok("dave", f"{V3}/sync")["next_batch"]
        self.come()
        for name, query, whole in (
            ("carol", {}, True),
            ("dave", {}, False),
            ("dave", {"since": since}, False),
        ):
            joined = self.ok(name, f"{V3}/sync", **query)["rooms"]["join"][self.room_id]
            contents = self.by_id([*joined["timeline"]["events"], *joined["state"]["events"]])
            self.assertEqual(whole, contents[self.said].get("body") == "my secret plan")
            self.assertEqual(whole, contents[self.member].get("displayname") == "Bob")

    def test_sync_in_the_format_of_servers(self) -> None:
        self.come()
        wanted = msgspec.json.encode({"event_format": "federation"}).decode()
        for name, whole in (("carol", True), ("dave", False)):
            joined = self.ok(name, f"{V3}/sync", filter=wanted)["rooms"]["join"][self.room_id]
            told = [one for one in joined["timeline"]["events"] if one["sender"] == user("bob")]
            self.assertTrue(all("auth_events" in one for one in told))
            self.assertEqual(whole, "secret" in msgspec.json.encode(told).decode())

    def test_sliding_sync(self) -> None:
        self.come()
        body = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 20, "required_state": [["*", "*"]]}}}
        for name, whole in (("carol", True), ("dave", False)):
            answer = self.app.ok("POST", SLIDING, body, self.tokens[name], {})
            room = answer["rooms"][self.room_id]
            contents = self.by_id([*room["timeline"], *room["required_state"]])
            self.assertEqual(whole, contents[self.said].get("body") == "my secret plan")
            self.assertEqual(whole, contents[self.member].get("displayname") == "Bob")

    def test_what_others_replace_afterwards(self) -> None:
        """What a state event said before is told of in the next one: not any more, to whoever is told."""
        self.set_state("bob", self.room_id, "m.room.topic", {"topic": "my secret dog"})
        self.come()
        since = {name: self.ok(name, f"{V3}/sync")["next_batch"] for name in ("carol", "dave")}
        self.set_state("alice", self.room_id, "m.room.topic", {"topic": "alice's"})
        for name in ("carol", "dave"):
            told = self.ok(name, f"{V3}/sync", since=since[name])["rooms"]["join"][self.room_id]
            (event,) = told["timeline"]["events"]
            self.assertEqual({}, event["unsigned"]["prev_content"])
            self.assertIn("replaces_state", event["unsigned"])

    def test_relations(self) -> None:
        mine = self.say("alice", self.room_id, "root")
        self.relate("bob", self.room_id, "m.thread", mine, "my secret answer")
        self.relate("bob", self.room_id, "m.reference", mine, "my secret reference")
        self.relate("bob", self.room_id, "m.replace", self.said, "my secret correction")
        root = self.say("bob", self.room_id, "my secret root")
        self.relate("alice", self.room_id, "m.thread", root, "an answer")
        self.come()
        path = f"{V1}/rooms/{self.room_id}"
        for name, whole in (("carol", True), ("dave", False)):
            parent = self.ok(name, self.path(self.room_id, "event", mine))["unsigned"]
            self.assertEqual(whole, "m.thread" in parent.get("m.relations", {}))
            self.assertEqual(whole, "m.reference" in parent.get("m.relations", {}))
            said = self.ok(name, self.path(self.room_id, "event", self.said))["unsigned"]
            self.assertEqual(whole, "m.replace" in said.get("m.relations", {}))
            children = self.ok(name, f"{path}/relations/{mine}")["chunk"]
            self.assertEqual(2 if whole else 0, len(children))
            threads = self.ok(name, f"{path}/threads")["chunk"]
            self.assertEqual([root, mine] if whole else [root], [one["event_id"] for one in threads])
            self.assertEqual(whole, "secret" in msgspec.json.encode(threads).decode())
            self.assertEqual(1, threads[0]["unsigned"]["m.relations"]["m.thread"]["count"])

    def test_search(self) -> None:
        self.app.app.begin()
        self.say("alice", self.room_id, "no secret")
        self.come()
        body = {"search_categories": {"room_events": {"search_term": "secret", "event_context": {}}}}
        for name, count in (("carol", 2), ("dave", 1)):
            answer = self.app.ok("POST", f"{V3}/search", body, self.tokens[name], {})
            found = answer["search_categories"]["room_events"]
            self.assertEqual((count, count), (found["count"], len(found["results"])))
            self.assertEqual(name == "carol", "my secret plan" in msgspec.json.encode(answer).decode())

    def test_why_something_was_redacted(self) -> None:
        self.app.ok(
            "PUT",
            self.path(self.room_id, "redact", self.said, "x"),
            {"reason": "my secret reason"},
            self.tokens["bob"],
        )
        self.come()
        for name, whole in (("carol", True), ("dave", False)):
            event = self.ok(name, self.path(self.room_id, "event", self.said))
            because = event["unsigned"]["redacted_because"]
            self.assertEqual((user("bob"), self.said), (because["sender"], because["content"]["redacts"]))
            self.assertEqual(whole, because["content"].get("reason") == "my secret reason")

    def test_the_state_in_force_is_the_rooms(self) -> None:
        """A newcomer must know that the room is encrypted, whoever said so."""
        content = {"algorithm": "m.megolm.v1.aes-sha2"}
        self.set_state("bob", self.room_id, "m.room.encryption", content)
        old = self.set_state("bob", self.room_id, "m.room.topic", {"topic": "my secret topic"})
        self.set_state("alice", self.room_id, "m.room.topic", {"topic": "alice's"})
        new = self.set_state("bob", self.room_id, "m.room.name", {"name": "The room"})
        self.come()
        state = {one["type"]: one["content"] for one in self.ok("dave", self.path(self.room_id, "state"))}
        self.assertEqual(content, state["m.room.encryption"])
        self.assertEqual(content, self.ok("dave", self.path(self.room_id, "state", "m.room.encryption", "")))
        contents = self.by_id(self.page("dave", self.room_id, limit=50)["chunk"])
        self.assertEqual({"name": "The room"}, contents[new])
        self.assertEqual({}, contents[old])

    def test_a_restart(self) -> None:
        self.come()
        for _ in range(2):
            event = self.ok("dave", self.path(self.room_id, "event", self.said))
            self.assertEqual({}, event["content"])
            self.app.restart()

    def test_without_erasure_nothing_is_hidden(self) -> None:
        self.erase(erase=False)
        self.join("dave", self.room_id)
        event = self.ok("dave", self.path(self.room_id, "event", self.said))
        self.assertEqual("my secret plan", event["content"]["body"])

    def test_a_stranger_who_may_look(self) -> None:
        content = {"history_visibility": "world_readable"}
        self.set_state("alice", self.room_id, "m.room.history_visibility", content)
        said = self.say("bob", self.room_id, "my secret show")
        self.assertEqual(
            "my secret show", self.ok("dave", self.path(self.room_id, "event", said))["content"]["body"]
        )
        self.erase()
        # Whether they had looked, nobody knows; they had not joined.
        self.assertEqual({}, self.ok("dave", self.path(self.room_id, "event", said))["content"])

    def test_the_data_of_the_account_goes_and_the_name_stays_taken(self) -> None:
        path = f"{V3}/user/{user('bob')}/account_data/org.example.x"
        self.app.ok("PUT", path, {"a": 1}, self.tokens["bob"])
        self.app.ok("POST", self.path(self.room_id, "receipt", "m.read", self.said), {}, self.tokens["bob"])
        self.come()
        self.assertEqual(404, self.app.call("GET", f"{V3}/profile/{user('bob')}")[0])
        joined = self.ok("carol", f"{V3}/sync")["rooms"]["join"][self.room_id]
        self.assertNotIn(user("bob"), str(joined["ephemeral"]))
        taken = self.app.call("POST", f"{V3}/register", {"username": "bob", "password": PASSWORD})
        self.assert_refused(taken, 400, "M_USER_IN_USE")
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "bob"},
            "password": PASSWORD,
        }
        self.assertEqual(403, self.app.call("POST", f"{V3}/login", body)[0])
        again = self.app.call("POST", f"{V3}/account/deactivate", {"erase": True}, self.tokens["bob"])
        self.assert_refused(again, 401, "M_UNKNOWN_TOKEN")

    def test_once_and_for_all(self) -> None:
        """What was asked for is not taken back; and another process hears of it."""
        accounts = self.app.app.services.accounts
        self.wait(accounts.deactivate(user("bob"), erase=False))
        self.assertEqual({}, self.app.app.core.facts.erased.by_id)
        self.wait(accounts.deactivate(user("bob"), erase=True))
        known = self.app.app.core.facts.erased.by_id
        self.assertEqual({user("bob")}, set(known))
        self.wait(accounts.deactivate(user("bob"), erase=False))
        self.wait(accounts.deactivate(user("bob"), erase=True))
        self.assertEqual(known, self.app.app.core.facts.erased.by_id)
        self.pump()
        elsewhere = ErasedUsers(())
        position = self.app.app.core.changes.position
        elsewhere.apply(self.app.wait(self.app.database.read(load_foreign, 0, position)))
        self.assertEqual(known, elsewhere.by_id)
        account = self.wait(accounts.find(user("bob")))
        self.assertEqual((1, 1), (account.deactivated, account.erased))

    def test_rooms_of_others_cost_nothing(self) -> None:
        other = self.make_room(joined=("carol",))
        for number in range(5):
            self.say("alice", other, f"text {number}")
        path = self.path(other, "messages")
        self.ok("carol", path, dir="b")
        with self.statements() as before:
            self.ok("carol", path, dir="b")
        self.erase()
        with self.statements() as after:
            self.ok("carol", path, dir="b")
        self.assertEqual(len(before), len(after))


@dataclass(slots=True)
class Said:
    """A message of bob's, and whether carol had sight of it when he was erased."""

    event_id: str
    visibility: str
    inside: bool  # carol was in the room
    came: bool = False  # she came later, but before the erasure


ACTIONS = st.lists(
    st.sampled_from(("say", "say", "join", "leave", "invited", "shared", "joined")), max_size=14
)


class AgainstModel(ErasureCase):
    """Whoever had sight of an event before the erasure sees it whole; whoever sees it besides sees it redacted."""

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ACTIONS, st.booleans())
    def test_carol(self, actions: list[str], away: bool) -> None:
        self.setUp()
        room_id = self.make_room(joined=("bob",), levels={"state_default": 0})
        visibility, inside, said = "shared", False, list[Said]()
        for action in actions:
            if action == "say":
                said.append(Said(self.say("bob", room_id, "secret"), visibility, inside))
            elif action in ("join", "leave"):
                if inside == (action == "join"):
                    continue
                inside = action == "join"
                self.join("carol", room_id) if inside else self.leave("carol", room_id)
                for one in said:
                    one.came = one.came or inside
            else:
                visibility = action
                content = {"history_visibility": action}
                self.set_state("alice", room_id, "m.room.history_visibility", content)
        self.erase()
        if away and inside:
            self.leave("carol", room_id)
            inside = False
        if not inside:
            self.join("carol", room_id)
        shown = self.by_id(self.page("carol", room_id, limit=100)["chunk"])
        for one in said:
            may_see = one.inside or one.visibility == "shared"
            had_sight = one.inside or (one.visibility == "shared" and one.came)
            self.assertEqual(may_see, one.event_id in shown, one)
            if may_see:
                self.assertEqual(had_sight, "body" in shown[one.event_id], one)
        self.app.restart()
        self.assertEqual(shown, self.by_id(self.page("carol", room_id, limit=100)["chunk"]))
