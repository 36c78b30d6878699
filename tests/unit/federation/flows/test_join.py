"""What is believed of an answer to send_join: events that hold, in an order in which nothing comes too early."""

from __future__ import annotations

from typing import Any
from unittest import TestCase

import msgspec

from federation.canonical import MAX_INTEGER
from federation.checks import AuthEvents, check_auth_events
from federation.errors import Malformed
from federation.event import Event, parse_untrusted
from federation.flows.join import MAX_TEXT_BYTES, Conclusion, Lot, read_answer, read_state
from federation.flows.join_events import Checked, Terms, check_events
from federation.ids import RoomId, ServerName
from federation.keyring import MAX_KEYS, ServerKeys, VerifyKey
from federation.redaction import redact
from federation.signing import SigningKey, hash_and_sign_event, sign_event
from federation.verdict import Accept
from federation.versions import ROOM_VERSIONS

# Its ids are free to choose: so events can name each other.
RULES = ROOM_VERSIONS["2"]
KEY = SigningKey.from_seed(ServerName("a.example"), "k", b"\x07" * 32)
OTHER = SigningKey.from_seed(ServerName("a.example"), "k", b"\x09" * 32)
ROOM, ALICE, BOB = RoomId("!room:a.example"), "@alice:a.example", "@bob:a.example"
ELSEWHERE = SigningKey.from_seed(ServerName("b.example"), "k", b"\x0a" * 32)
KEYS = {
    key.server_name: ServerKeys(
        key.server_name, {key.key_id: VerifyKey(key.key_id, key.public_key, MAX_INTEGER)}, 0, MAX_INTEGER
    )
    for key in (KEY, ELSEWHERE)
}


def make(
    name: str,
    event_type: str,
    content: Any,
    state_key: str | None,
    auth: tuple[str, ...],
    key: SigningKey = KEY,
    **fields: Any,
) -> dict[str, Any]:
    """A signed event."""
    event = {
        "event_id": f"${name}:a.example",
        "type": event_type,
        "room_id": ROOM,
        "sender": ALICE,
        "content": content,
        "prev_events": [] if name == "create" else [["$create:a.example", {"sha256": "x"}]],
        "auth_events": [[f"${one}:a.example", {"sha256": "x"}] for one in auth],
        "depth": 1,
        "origin_server_ts": 1,
        **({} if state_key is None else {"state_key": state_key}),
        **fields,
    }
    return hash_and_sign_event(event, RULES, key)


CREATE = make("create", "m.room.create", {"creator": ALICE, "room_version": "2"}, "", ())
MEMBER = make("alice", "m.room.member", {"membership": "join"}, ALICE, ("create",))
RULE = make("rule", "m.room.join_rules", {"join_rule": "public"}, "", ("create", "alice"))


def join(auth: tuple[str, ...] = ("create", "rule")) -> Event:
    """bob's join."""
    content = {"membership": "join"}
    return parse_untrusted(make("bob", "m.room.member", content, BOB, auth, sender=BOB), RULES)


def check(lot: Lot, start: int, count: int) -> None:
    """A chunk, as another process would."""
    terms = msgspec.msgpack.decode(msgspec.msgpack.encode(lot.terms(KEYS)), type=Terms)
    checked = msgspec.msgpack.encode(check_events(lot.texts(start, count), terms))
    lot.take(start, msgspec.msgpack.decode(checked, type=Checked))


class Answers(TestCase):
    def lot(self, *state: Any, chain: tuple[Any, ...] = (), chunk: int = 9_999, **others: Any) -> Lot:
        """Everything that one does with an answer before the conclusion."""
        body = msgspec.json.encode({"state": list(state), "auth_chain": list(chain), **others})
        lot = Lot(read_answer(body), ROOM, RULES)
        lot.peek()
        check(lot, 0, lot.creates)
        self.problem = lot.find_create()
        lot.judge(lot.size)
        for start in range(lot.creates, lot.size, chunk):
            check(lot, start, chunk)
            lot.judge(lot.size)
        return lot

    def names(self, lot: Lot) -> list[str]:
        """The events that hold, in their order."""
        return [event.event_id[1:].partition(":")[0] for event in lot.held(0, len(lot))]

    def conclude(self, *state: Any, **others: Any) -> Conclusion:
        return self.lot(*state, **others).conclude(join())

    def test_a_room(self) -> None:
        lot = self.lot(RULE, MEMBER, CREATE)
        self.assertIsNone(self.problem)
        self.assertEqual(["create", "alice", "rule"], self.names(lot))
        found = lot.conclude(join())
        self.assertIsNone(found.problem)
        self.assertEqual(3, len(found.state))
        self.assertEqual(0, lot.dropped)

    def test_what_is_no_answer(self) -> None:
        for body in (
            b"",
            b"[]",
            b"{}",
            b'{"state":1,"auth_chain":[]}',
            b'{"state":[' + b"[" * 100_000,
            b"\xff",
        ):
            with self.assertRaises(Malformed):
                read_answer(body)
            with self.assertRaises(Malformed):
                read_state(body)

    def test_what_is_too_much_is_not_decoded(self) -> None:
        """A list of nothing takes a hundred times the memory of its text."""
        empty = b'{"state":[%b],"auth_chain":[]}'
        for one in (b"0", b"{}", b'""', b"[[],[],[],[],[],[],[],[]]"):
            with self.assertRaises(Malformed):
                read_answer(empty % b",".join([one] * 300_000))
            with self.assertRaises(Malformed):
                read_state(b'{"pdus":[%b],"auth_chain":[]}' % b",".join([one] * 300_000))
        wide = {**RULE, "unsigned": {"a": [[]] * (MAX_TEXT_BYTES // 3)}}
        answer = read_answer(msgspec.json.encode({"state": [CREATE, MEMBER, wide], "auth_chain": [RULE]}))
        self.assertEqual(3, len(answer.texts))
        self.assertEqual({0, 1}, answer.state)
        # What a member of a large room looks like is never too much.
        many = [msgspec.json.encode({**MEMBER, "unsigned": {"age": number}}) for number in range(5_000)]
        self.assertEqual(5_000, len(read_answer(empty % b",".join(many)).texts))

    def test_circles_and_what_rests_on_them(self) -> None:
        loop = [make(one, "m.room.topic", {}, one, ("create", "alice", other)) for one, other in ("pq", "qp")]
        itself = make("self", "m.room.topic", {}, "self", ("create", "alice", "self"))
        above = make("above", "m.room.topic", {}, "above", ("create", "p"))
        lot = self.lot(CREATE, MEMBER, RULE, *loop, itself, above)
        self.assertEqual(["create", "alice", "rule"], self.names(lot))
        self.assertEqual(4, lot.dropped)

    def test_a_long_chain_needs_no_depth(self) -> None:
        chain = [CREATE, MEMBER]
        for number in range(3_000):
            before = "alice" if not number else f"m{number - 1}"
            chain.append(
                make(f"m{number}", "m.room.member", {"membership": "join"}, ALICE, ("create", before))
            )
        lot = self.lot(CREATE, chain=tuple(reversed(chain)))
        self.assertEqual(3_002, len(self.names(lot)))

    def test_the_chunks_make_no_difference(self) -> None:
        members = [
            make(
                f"m{number}",
                "m.room.member",
                {"membership": ("join", "leave")[number % 2]},
                f"@m{number}:a.example",
                ("create", "rule") if number % 3 else ("create", "rule", "alice"),
                sender=f"@m{number}:a.example",
            )
            for number in range(12)
        ]
        again = make("again", "m.room.member", {"membership": "leave"}, BOB, ("create", "m2"), sender=BOB)
        state = [*members, again, RULE, MEMBER, CREATE]
        whole = self.lot(*state)
        self.assertIn("m2", self.names(whole))
        self.assertNotIn("m1", self.names(whole))  # who was not in cannot leave
        for chunk in (1, 2, 3, 5):
            for some in (state, state[::-1], state[7:] + state[:7]):
                lot = self.lot(*some, chunk=chunk)
                self.assertEqual(sorted(self.names(whole)), sorted(self.names(lot)))
                self.assertEqual(whole.conclude(join()).state, lot.conclude(join()).state)
                self.assertEqual(whole.dropped, lot.dropped)

    def test_joins_that_are_judged_alike(self) -> None:
        """Of plain joins one verdict stands for all, as long as the rules ask of nothing else."""
        rules = ROOM_VERSIONS["11"]

        def build(event_type: str, content: Any, state_key: str, sender: str, *on: Event) -> Event:
            fields = {
                "type": event_type,
                "sender": sender,
                "state_key": state_key,
                "content": content,
                "room_id": ROOM,
                "depth": 1,
                "origin_server_ts": 1,
                "prev_events": [on[-1].event_id] if on else [],
                "auth_events": [one.event_id for one in on],
            }
            key = KEY if sender.endswith("a.example") else ELSEWHERE
            return parse_untrusted(hash_and_sign_event(fields, rules, key), rules)

        for federates in (True, False):
            for join_rule in ("public", "invite"):
                content = {"room_version": "11", "m.federate": federates}
                create = build("m.room.create", content, "", ALICE)
                alice = build("m.room.member", {"membership": "join"}, ALICE, ALICE, create)
                rule = build("m.room.join_rules", {"join_rule": join_rule}, "", ALICE, create, alice)
                joins: list[Event] = []
                for sender in (ALICE, BOB, "@x:b.example", "@y:a.example", "@z:b.example"):
                    for word in ("join", "leave", 7):
                        joins += [
                            build("m.room.member", {"membership": word}, sender, sender, create, rule),
                            build(
                                "m.room.member", {"membership": word}, "@w:a.example", sender, create, rule
                            ),
                            build("m.room.member", {"membership": word}, sender, sender, rule, create),
                            build("m.room.member", {"membership": word}, sender, sender, create, alice, rule),
                        ]
                everything = [create, alice, rule, *joins]
                body = msgspec.json.encode({"state": [one.json for one in everything], "auth_chain": []})
                lot = Lot(read_answer(body), ROOM, rules)
                lot.peek()
                check(lot, 0, lot.creates)
                self.assertIsNone(lot.find_create())
                lot.judge(9)
                for start in range(lot.creates, lot.size, 4):
                    check(lot, start, 4)
                    lot.judge(lot.size)
                by_id = {one.event_id: one for one in everything}
                expected = {
                    one.event_id
                    for one in everything
                    if isinstance(
                        check_auth_events(
                            one, AuthEvents([by_id[auth_id] for auth_id in one.auth_event_ids], (), create)
                        ),
                        Accept,
                    )
                }
                self.assertEqual(expected, {one.event_id for one in lot.held(0, len(lot))})
                self.assertTrue(any(one.event_id in expected for one in joins) or join_rule == "invite")

    def test_what_is_missing_takes_what_rests_on_it(self) -> None:
        self.assertEqual(["create"], self.names(self.lot(CREATE, RULE)))
        self.assertIsNotNone(self.conclude(CREATE, RULE).problem)

    def test_signatures_hashes_rooms_and_forms(self) -> None:
        changed = {**MEMBER, "content": {"membership": "join", "displayname": "Eve"}}
        lot = self.lot(CREATE, changed)
        self.assertEqual({"membership": "join"}, msgspec.json.decode(lot.held(0, 9)[1].text)["content"])
        wrong: tuple[Any, ...] = (
            make("alice", "m.room.member", {"membership": "join"}, ALICE, ("create",), key=OTHER),
            make(
                "alice",
                "m.room.member",
                {"membership": "join"},
                ALICE,
                ("create",),
                room_id="!other:a.example",
            ),
            make("alice", "m.room.member", {"membership": "join"}, None, ("create",)),
            {**MEMBER, "signatures": {}},
            {**MEMBER, "depth": "1"},
            7,
            None,
            [],
        )
        for bad in wrong:
            self.assertEqual(["create"], self.names(self.lot(CREATE, bad)), bad)

    def test_names_with_nul(self) -> None:
        """Every other way into a room takes them, so what rests on them would be held differently by other servers."""
        odd = make("odd", "m.room.to\0pic", {}, "a\0b", ("create", "alice"))
        self.assertEqual(["create", "alice", "odd"], self.names(self.lot(CREATE, MEMBER, odd)))

    def test_an_invite_in_the_name_of_another_server(self) -> None:
        """As a third-party invite it needs no signature of its sender's server; as what a redaction makes of it, it does."""
        on = ("create", "rule", "alice")
        content = {"membership": "invite", "third_party_invite": 1}
        named: dict[str, Any] = {
            "state_key": "@mallory:b.example",
            "auth": on,
            "event_id": "$forged:b.example",
        }
        hashed = make("forged", "m.room.member", content, key=ELSEWHERE, **named)
        for pdu in (hashed, {**hashed, "hashes": {"sha256": "AAAA"}}):
            signed = sign_event({**pdu, "signatures": {}}, RULES, ELSEWHERE)
            self.assertEqual(["create", "alice", "rule"], self.names(self.lot(CREATE, MEMBER, RULE, signed)))
        # What both signed may come redacted.
        redacted = sign_event(redact(hashed, RULES), RULES, KEY)
        self.assertEqual(
            ["create", "alice", "rule", "forged"], self.names(self.lot(CREATE, MEMBER, RULE, redacted))
        )

    def test_events_that_their_auth_events_forbid(self) -> None:
        forbidden = make("power", "m.room.power_levels", {}, "", ("create",))
        above = make("topic", "m.room.topic", {}, "", ("create", "alice", "power"))
        lot = self.lot(CREATE, MEMBER, RULE, forbidden, above)
        self.assertEqual(["create", "alice", "rule"], self.names(lot))
        self.assertEqual(3, len(lot.conclude(join()).state))

    def test_create_events(self) -> None:
        self.lot(MEMBER)
        self.assertIsNotNone(self.problem)
        self.lot(MEMBER, chain=(CREATE,))
        self.assertIsNotNone(self.problem)
        self.lot(make("create", "m.room.create", {"creator": ALICE, "room_version": "1"}, "", ()))
        self.assertIsNotNone(self.problem)
        second = make(
            "create2", "m.room.create", {"creator": ALICE, "room_version": "2"}, "", (), prev_events=[]
        )
        self.lot(CREATE, second)
        self.assertIsNotNone(self.problem)
        mine = make("mine", "m.room.member", {"membership": "join"}, ALICE, ("create2",))
        self.assertEqual(
            ["create", "alice", "rule"], self.names(self.lot(CREATE, MEMBER, RULE, chain=(second, mine)))
        )

    def test_a_state_that_says_two_things(self) -> None:
        second = make("rule2", "m.room.join_rules", {"join_rule": "invite"}, "", ("create", "alice"))
        self.assertIn("two events", self.conclude(CREATE, MEMBER, RULE, second).problem or "")

    def test_a_state_that_does_not_let_us_in(self) -> None:
        closed = make("rule", "m.room.join_rules", {"join_rule": "invite"}, "", ("create", "alice"))
        self.assertIn("does not let us in", self.conclude(CREATE, MEMBER, closed).problem or "")
        self.assertIn("does not let us in", self.conclude(CREATE, MEMBER, chain=(RULE,)).problem or "")

    def test_without_members(self) -> None:
        lot = self.lot(
            CREATE, RULE, chain=(MEMBER,), members_omitted=True, servers_in_room=["a.example", "?", "b:1"]
        )
        self.assertTrue(lot.members_omitted)
        self.assertEqual(("a.example", "b:1"), lot.servers)
        found = lot.conclude(join(), partial=True)
        self.assertIsNone(found.problem)
        self.assertEqual({("m.room.create", ""), ("m.room.join_rules", "")}, set(found.state))

    def test_whose_keys(self) -> None:
        lot = Lot(
            read_answer(msgspec.json.encode({"state": [CREATE, 1, {"sender": 1}], "auth_chain": []})),
            ROOM,
            RULES,
        )
        (found,) = lot.peek()
        self.assertEqual(("a.example", (KEY.key_id,), 1), (found.server, found.key_ids, found.newest_ts_ms))

    def test_each_key_by_itself(self) -> None:
        def signed(ts_ms: int, *key_ids: str) -> dict[str, Any]:
            signatures = {"s.example": dict.fromkeys(key_ids, "")}
            return {"sender": "@x:s.example", "origin_server_ts": ts_ms, "signatures": signatures}

        one, two = "ed25519:1", "ed25519:2"
        no_keys = ["ed25519:a-b", "ed25519:" + "x" * 1000, "rsa:1"]
        events = [
            signed(5, one),
            signed(7, two, *no_keys),
            signed(3, one),
            signed(9, two),
            signed(-1, two, one),
        ]
        events += [signed(9, *no_keys), *(signed(8, f"ed25519:many{number}") for number in range(1000))]
        found = Lot(read_answer(msgspec.json.encode({"state": events, "auth_chain": []})), ROOM, RULES).peek()
        self.assertEqual({"s.example"}, {sign.server for sign in found})
        self.assertEqual(
            [((one,), 5), ((two,), 9), ((two, one), 0)],
            [(sign.key_ids, sign.newest_ts_ms) for sign in found[:3]],
        )
        self.assertEqual(MAX_KEYS, len(found))
