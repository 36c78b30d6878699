"""Cross-signing keys and signatures. spec: client-server-api#cross-signing"""

from __future__ import annotations

from typing import Any

from homeserver.e2ee.shapes import check_signing_key
from homeserver.store.cross_signing import put_signing_keys
from tests.api.keys import KeysCase
from tests.api.rooms import ALICE, BOB, V3
from tests.support.databases import on_each_database
from tests.support.keys import CrossKeys, Ed25519, KeyDevice

UPLOAD = "/keys/device_signing/upload"
SIGN = "/keys/signatures/upload"
PASSWORD = {
    "type": "m.login.password",
    "identifier": {"type": "m.id.user", "user": "alice"},
    "password": "correct horse",
}


class CrossCase(KeysCase):
    def setUp(self) -> None:
        super().setUp()
        self.cross = CrossKeys(ALICE)

    def keys_of(self, token: str, user_id: str) -> dict[str, Any]:
        found = self.query(token, user_id)
        names = ("master_keys", "self_signing_keys", "user_signing_keys")
        return {name: found[name][user_id] for name in names if user_id in found[name]}

    def confirmed(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Upload with the password, as clients do it: asked first, then told."""
        status, answer = self.post(self.alice, UPLOAD, body)
        self.assertEqual(401, status, answer)
        return self.post(self.alice, UPLOAD, {**body, "auth": {**PASSWORD, "session": answer["session"]}})


@on_each_database
class Keys(CrossCase):
    def test_the_first_keys_need_no_password_and_others_do(self) -> None:
        self.assertEqual((200, {}), self.post(self.alice, UPLOAD, self.cross.body()))
        self.assertEqual((200, {}), self.post(self.alice, UPLOAD, self.cross.body()))
        self.assertEqual((200, {}), self.post(self.alice, UPLOAD, {"master_key": self.cross.key("master")}))
        other = CrossKeys(ALICE, "second")
        self.assertEqual((200, {}), self.confirmed(other.body()))
        self.assertEqual(other.key("master"), self.keys_of(self.alice, ALICE)["master_keys"])

    def test_a_new_self_signing_key_needs_it_too(self) -> None:
        self.ok(self.alice, UPLOAD, {"master_key": self.cross.key("master")})
        body = {"self_signing_key": self.cross.key("self_signing")}
        self.assertEqual((200, {}), self.confirmed(body))
        self.assertEqual(body["self_signing_key"], self.keys_of(self.bob, ALICE)["self_signing_keys"])

    def test_the_same_key_with_something_else_needs_it_too(self) -> None:
        """What says more of a key, or of what it is for, is no repeated request."""
        self.ok(self.alice, UPLOAD, self.cross.body())
        master, own = self.cross.key("master"), self.cross.key("self_signing")
        other = self.cross.master.sign({**own, "usage": ["self_signing", "user_signing"], "signatures": {}})
        for usage, known, body in (
            ("master", master, {"master_key": {**master, "usage": ["master", "user_signing"]}}),
            ("self_signing", own, {"self_signing_key": other}),
        ):
            self.assertEqual(401, self.post(self.alice, UPLOAD, body)[0])
            self.assertEqual(known, self.keys_of(self.alice, ALICE)[f"{usage}_keys"])
            self.assertEqual((200, {}), self.confirmed(body))
        # A signature more is none of that: it could be added without a password, too.
        signed = self.cross.user_signing.sign(other)
        self.assertEqual((200, {}), self.post(self.alice, UPLOAD, {"self_signing_key": signed}))

    def test_signatures_of_others_are_shown_to_nobody(self) -> None:
        # spec: client-server-api#key-and-signature-security
        bobs = CrossKeys(BOB).user_signing
        self.ok(self.alice, UPLOAD, {"master_key": bobs.sign(self.cross.key("master"))})
        token, phone = self.device("alice", "PHONE")
        self.ok(token, "/keys/upload", {"device_keys": bobs.sign(phone.keys())})
        for reader in (self.alice, self.bob):
            found = self.query(reader, ALICE)
            self.assertNotIn(BOB, found["master_keys"][ALICE].get("signatures", {}))
            self.assertEqual([ALICE], list(found["device_keys"][ALICE]["PHONE"]["signatures"]))

    def test_the_user_signing_key_is_for_its_owner(self) -> None:
        self.ok(self.alice, UPLOAD, self.cross.body())
        own = self.keys_of(self.alice, ALICE)
        self.assertEqual(self.cross.key("user_signing"), own["user_signing_keys"])
        others = self.keys_of(self.bob, ALICE)
        self.assertEqual(["master_keys", "self_signing_keys"], sorted(others))
        self.assertEqual(own["master_keys"], others["master_keys"])

    def test_refused(self) -> None:
        body = self.cross.body()
        self.assert_refused(self.post(self.alice, UPLOAD, {}), 400, "M_MISSING_PARAM")
        without = {"self_signing_key": body["self_signing_key"]}
        self.assert_refused(self.post(self.alice, UPLOAD, without), 400, "M_MISSING_PARAM")
        master = body["master_key"]
        stranger = Ed25519(ALICE, "stranger")
        cases: list[tuple[str, Any, int, str]] = [
            ("master_key", [], 400, "M_BAD_JSON"),
            ("master_key", {**master, "user_id": BOB}, 403, "M_FORBIDDEN"),
            ("master_key", {**master, "usage": ["self_signing"]}, 400, "M_INVALID_PARAM"),
            ("master_key", {**master, "usage": "master"}, 400, "M_INVALID_PARAM"),
            ("master_key", {**master, "keys": {}}, 400, "M_INVALID_PARAM"),
            ("master_key", {**master, "keys": {"ed25519:x": "x"}}, 400, "M_INVALID_PARAM"),
            (
                "master_key",
                {**master, "keys": {**master["keys"], stranger.name: stranger.public_key}},
                400,
                "M_INVALID_PARAM",
            ),
            (
                "master_key",
                {**master, "keys": {stranger.name: self.cross.master.public_key}},
                400,
                "M_INVALID_PARAM",
            ),
            ("master_key", {**master, "signatures": {ALICE: "x"}}, 400, "M_INVALID_PARAM"),
            ("master_key", {**master, "float": 0.5}, 400, "M_BAD_JSON"),
            ("self_signing_key", {**body["self_signing_key"], "signatures": {}}, 400, "M_INVALID_SIGNATURE"),
            ("self_signing_key", {**body["self_signing_key"], "extra": 1}, 400, "M_INVALID_SIGNATURE"),
            (
                "user_signing_key",
                stranger.sign({**body["user_signing_key"], "signatures": {}}),
                400,
                "M_INVALID_SIGNATURE",
            ),
        ]
        for name, value, status, errcode in cases:
            with self.subTest(name, value=value):
                self.assert_refused(self.post(self.alice, UPLOAD, {**body, name: value}), status, errcode)
        self.assertEqual({}, self.keys_of(self.alice, ALICE))

    def test_a_key_that_is_replaced_at_this_moment_does_not_come_back_without_the_password(self) -> None:
        """Nothing differs while the request is looked at, and everything when its turn to be stored comes."""
        self.ok(self.alice, UPLOAD, self.cross.body())
        committer = self.app.app.core.committer
        nid = self.app.app.core.interner.known_user(ALICE)
        assert nid is not None
        for usage in ("self_signing", "user_signing"):
            name = f"{usage}_key"
            old = {name: self.cross.key(usage)}
            key = Ed25519(ALICE, f"new {usage}")
            new = self.cross.master.sign(
                {"user_id": ALICE, "usage": [usage], "keys": {key.name: key.public_key}}
            )
            batches = committer.batches
            stored = committer.work(put_signing_keys, nid, [check_signing_key(new, ALICE, usage, nid)])
            same = {"master_key": self.cross.key("master"), name: new}
            asked = [self.app.start("POST", f"{V3}{UPLOAD}", body, self.alice) for body in (old, same)]
            self.assertTrue(self.app.wait(stored))
            refused, again = [self.app.wait(one) for one in asked]
            self.assertEqual(batches + 1, committer.batches)
            self.assertEqual(
                (401, {"session", "flows", "params"}), (refused.status, set(refused.json)), usage
            )
            # A retry of what has been stored meanwhile is no harm.
            self.assertEqual((200, {}), (again.status, again.json))
            self.assertEqual(new, self.keys_of(self.alice, ALICE)[f"{usage}_keys"])
            # Who has the password may have the old one back.
            auth = {**PASSWORD, "session": refused.json["session"]}
            self.assertEqual((200, {}), self.post(self.alice, UPLOAD, {**old, "auth": auth}))
            self.assertEqual(old[name], self.keys_of(self.alice, ALICE)[f"{usage}_keys"])

    def test_a_master_key_is_not_replaced_with_a_wrong_password(self) -> None:
        self.ok(self.alice, UPLOAD, self.cross.body())
        body = CrossKeys(ALICE, "second").body()
        _, answer = self.post(self.alice, UPLOAD, body)
        auth = {**PASSWORD, "password": "wrong", "session": answer["session"]}
        self.assertEqual(401, self.post(self.alice, UPLOAD, {**body, "auth": auth})[0])
        self.assertEqual(self.cross.key("master"), self.keys_of(self.alice, ALICE)["master_keys"])

    def test_devices_and_keys_have_one_namespace(self) -> None:
        device_id = self.cross.self_signing.public_key
        token, _ = self.device("alice", device_id)
        self.assert_refused(self.post(self.alice, UPLOAD, self.cross.body()), 403, "M_FORBIDDEN")
        self.ok(token, "/logout")
        self.ok(self.alice, UPLOAD, self.cross.body())
        answer = self.app.call("POST", f"{V3}/login", {**PASSWORD, "device_id": device_id})
        self.assert_refused(answer, 403, "M_FORBIDDEN")


@on_each_database
class Signatures(CrossCase):
    def setUp(self) -> None:
        super().setUp()
        self.token, self.phone = self.device("alice", "PHONE")
        self.ok(self.alice, UPLOAD, self.cross.body())
        self.theirs = CrossKeys(BOB)
        self.ok(self.bob, UPLOAD, self.theirs.body())

    def sign(self, user_id: str, key_id: str, value: Any) -> Any:
        return self.ok(self.alice, SIGN, {user_id: {key_id: value}})["failures"]

    def test_a_device_is_signed_by_the_self_signing_key(self) -> None:
        signed = self.cross.self_signing.sign(self.phone.keys())
        self.assertEqual({}, self.sign(ALICE, "PHONE", signed))
        for token in (self.alice, self.bob):
            told = self.query(token, ALICE)["device_keys"][ALICE]["PHONE"]
            self.assertEqual(signed["signatures"], told["signatures"])
        # Without the device's own signature, as some clients send it.
        bare = {**self.phone.keys(), "signatures": {}}
        self.assertEqual({}, self.sign(ALICE, "PHONE", self.cross.self_signing.sign(bare)))

    def test_signatures_stay_while_the_keys_are_the_same(self) -> None:
        signed = self.cross.self_signing.sign(self.phone.keys())
        self.assertEqual({}, self.sign(ALICE, "PHONE", signed))
        again = {**self.phone.keys(), "signatures": {ALICE: {"ed25519:old": "x"}}}
        self.ok(self.token, "/keys/upload", {"device_keys": again})
        told = self.query(self.bob, ALICE)["device_keys"][ALICE]["PHONE"]["signatures"][ALICE]
        self.assertEqual({"ed25519:old", self.cross.self_signing.name}, set(told))
        self.ok(self.token, "/keys/upload", {"device_keys": KeyDevice(ALICE, "PHONE", "other").keys()})
        told = self.query(self.bob, ALICE)["device_keys"][ALICE]["PHONE"]["signatures"][ALICE]
        self.assertEqual({"ed25519:PHONE"}, set(told))

    def test_the_master_key_is_signed_by_a_device(self) -> None:
        signed = self.phone.key.sign(self.cross.key("master"))
        self.assertEqual({}, self.sign(ALICE, self.cross.master.public_key, signed))
        for token in (self.alice, self.bob):
            self.assertEqual(signed, self.keys_of(token, ALICE)["master_keys"])

    def test_somebody_elses_master_key_is_seen_as_signed_by_the_signer_alone(self) -> None:
        signed = self.cross.user_signing.sign(self.theirs.key("master"))
        self.assertEqual({}, self.sign(BOB, self.theirs.master.public_key, signed))
        self.assertEqual(signed, self.keys_of(self.alice, BOB)["master_keys"])
        self.assertEqual(self.theirs.key("master"), self.keys_of(self.bob, BOB)["master_keys"])
        self.assertEqual(
            self.theirs.key("master"), self.keys_of(self.app.register("carol"), BOB)["master_keys"]
        )

    def test_signatures_go_with_the_keys(self) -> None:
        self.sign(ALICE, "PHONE", self.cross.self_signing.sign(self.phone.keys()))
        self.sign(BOB, self.theirs.master.public_key, self.cross.user_signing.sign(self.theirs.key("master")))
        second = CrossKeys(ALICE, "second")
        self.assertEqual(200, self.confirmed(second.body())[0])
        told = self.query(self.alice, ALICE, BOB)
        self.assertEqual(self.phone.keys()["signatures"], told["device_keys"][ALICE]["PHONE"]["signatures"])
        self.assertEqual(self.theirs.key("master"), told["master_keys"][BOB])
        # And with the device: one that comes back under its name is another.
        self.sign(ALICE, "PHONE", second.self_signing.sign(self.phone.keys()))
        self.ok(self.token, "/logout")
        self.device("alice", "PHONE")
        told = self.query(self.alice, ALICE)["device_keys"][ALICE]["PHONE"]
        self.assertEqual(self.phone.keys()["signatures"], told["signatures"])

    def test_what_is_wrong_is_named_and_the_rest_is_stored(self) -> None:
        good = self.cross.self_signing.sign(self.phone.keys())
        stranger = CrossKeys(ALICE, "stranger")
        theirs, master = self.theirs.key("master"), self.theirs.master.public_key
        cases: list[tuple[str, str, Any, str]] = [
            (ALICE, "PHONE", stranger.self_signing.sign(self.phone.keys()), "M_INVALID_SIGNATURE"),
            (ALICE, "PHONE", self.phone.keys(), "M_INVALID_SIGNATURE"),
            (ALICE, "PHONE", {**good, "algorithms": []}, "M_INVALID_SIGNATURE"),
            (ALICE, "PHONE", {**good, "signatures": "x"}, "M_INVALID_PARAM"),
            (ALICE, "PHONE", [], "M_INVALID_PARAM"),
            (ALICE, "NONE", good, "M_NOT_FOUND"),
            (BOB, master, self.cross.self_signing.sign(theirs), "M_INVALID_SIGNATURE"),
            (BOB, master, self.phone.key.sign(theirs), "M_INVALID_SIGNATURE"),
            (BOB, self.theirs.self_signing.public_key, self.theirs.key("self_signing"), "M_NOT_FOUND"),
            ("@nobody:test.example", master, self.theirs.key("self_signing"), "M_NOT_FOUND"),
            ("nobody", master, theirs, "M_INVALID_PARAM"),
        ]
        for user_id, key_id, value, errcode in cases:
            with self.subTest(errcode, user_id=user_id, value=value):
                self.assertEqual(errcode, self.sign(user_id, key_id, value)[user_id][key_id]["errcode"])
        both = {ALICE: {"PHONE": good, "NONE": good}}
        failures = self.ok(self.alice, SIGN, both)["failures"]
        self.assertEqual({ALICE: ["NONE"]}, {user_id: list(found) for user_id, found in failures.items()})
        told = self.query(self.bob, ALICE)["device_keys"][ALICE]["PHONE"]
        self.assertEqual(good["signatures"], told["signatures"])
        self.assert_refused(self.post(self.alice, SIGN, {ALICE: []}), 400, "M_BAD_JSON")
        many: Any = {ALICE: {str(number): {} for number in range(1_001)}}
        self.assert_refused(self.post(self.alice, SIGN, many), 413, "M_TOO_LARGE")

    def test_a_signature_that_was_altered_in_base64(self) -> None:
        good = self.cross.self_signing.sign(self.phone.keys())
        name = self.cross.self_signing.name
        for text in ("", "=", "A" * 86, "é", good["signatures"][ALICE][name] + "A" * 300):
            bad = {**good, "signatures": {ALICE: {name: text}}}
            self.assertEqual("M_INVALID_SIGNATURE", self.sign(ALICE, "PHONE", bad)[ALICE]["PHONE"]["errcode"])

    def test_syncs_hear_of_it(self) -> None:
        room_id = self.create(preset="public_chat")
        self.ok(self.bob, f"/join/{room_id}")
        self.ok(self.app.register("carol"), f"/join/{room_id}")
        tokens = {"alice": self.alice, "phone": self.token, "bob": self.bob}
        since = {name: self.sync(token)["next_batch"] for name, token in tokens.items()}
        self.sign(ALICE, "PHONE", self.cross.self_signing.sign(self.phone.keys()))
        for name, token in tokens.items():
            answer = self.sync(token, since[name])
            self.assertEqual(([ALICE], []), self.lists(answer), name)
            since[name] = answer["next_batch"]
        signed = self.cross.user_signing.sign(self.theirs.key("master"))
        self.sign(BOB, self.theirs.master.public_key, signed)
        for name, token in tokens.items():
            changed = [] if name == "bob" else [BOB]
            self.assertEqual((changed, []), self.lists(self.sync(token, since[name])), name)
        self.app.restart()
        for name, token in tokens.items():
            changed = [] if name == "bob" else [BOB]
            self.assertEqual((changed, []), self.lists(self.sync(token, since[name])), name)
