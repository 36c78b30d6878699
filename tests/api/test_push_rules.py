"""Push rules and pushers. spec: client-server-api#push-rules-api, #post_matrixclientv3pushersset"""

from __future__ import annotations

from typing import Any, ClassVar

from homeserver.push.rulesets import parse_ruleset
from homeserver.push.service import default_content
from homeserver.store import pushers as store
from tests.support.app import TestApp
from tests.support.databases import DatabaseCase, on_each_database

V3 = "/_matrix/client/v3"
RULES = f"{V3}/pushrules"
PREFIXED = f"{RULES}/global/io.element.msc4306.postcontent"
URL = "https://push.example/_matrix/push/v1/notify"


class PushCase(DatabaseCase):
    def setUp(self) -> None:
        self.app = TestApp(self, database=self.new_database())
        self.alice, self.bob = self.app.register("alice"), self.app.register("bob")

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        status, json = self.app.call(method, path, body, self.alice, query or None)
        return json if status == 200 else (status, json["errcode"])


@on_each_database
class Rules(PushCase):
    def test_defaults(self) -> None:
        everything = self.call("GET", f"{RULES}/")
        self.assertEqual({"global"}, set(everything))
        self.assertEqual(everything["global"], self.call("GET", f"{RULES}/global/"))
        kinds = {"override", "content", "postcontent", "room", "sender", "underride"}
        self.assertEqual(kinds, set(everything["global"]))
        mention = self.call("GET", f"{RULES}/global/override/.m.rule.is_user_mention")
        self.assertEqual("@alice:test.example", mention["conditions"][0]["value"])
        path = f"{V3}/user/@alice:test.example/account_data/m.push_rules"
        self.assertEqual(everything, self.call("GET", path))

    def test_the_proposals_prefix_in_the_path(self) -> None:
        rule_id = ".io.element.msc4306.rule.subscribed_thread"
        plain = self.call("GET", f"{RULES}/global/postcontent/{rule_id}")
        self.assertEqual(plain, self.call("GET", f"{PREFIXED}/{rule_id}"))
        self.assertEqual({}, self.call("PUT", f"{PREFIXED}/{rule_id}/enabled", {"enabled": False}))
        self.assertEqual(
            {"enabled": False}, self.call("GET", f"{RULES}/global/postcontent/{rule_id}/enabled")
        )

    def test_defaults_in_a_first_sync(self) -> None:
        for name in ("alice", "tr~$1", '"]\\u0000'):
            user_id = f"@{name}:test.example"
            self.assertEqual(parse_ruleset(None, user_id).to_json(), default_content(user_id))

    def test_a_rules_life(self) -> None:
        path = f"{RULES}/global/content/cake"
        self.assertEqual((404, "M_NOT_FOUND"), self.call("GET", path))
        self.assertEqual({}, self.call("PUT", path, {"actions": ["notify"], "pattern": "cake*lie", "x": 1}))
        rule = {
            "rule_id": "cake",
            "default": False,
            "enabled": True,
            "actions": ["notify"],
            "pattern": "cake*lie",
        }
        self.assertEqual(rule, self.call("GET", path))
        self.assertEqual({"enabled": True}, self.call("GET", f"{path}/enabled"))
        self.assertEqual({}, self.call("PUT", f"{path}/enabled", {"enabled": False}))
        self.assertEqual({"enabled": False}, self.call("GET", f"{path}/enabled"))
        self.assertEqual({}, self.call("PUT", f"{path}/actions", {"actions": []}))
        self.assertEqual({"actions": []}, self.call("GET", f"{path}/actions"))
        self.app.restart()
        self.assertEqual({**rule, "enabled": False, "actions": []}, self.call("GET", path))
        self.assertEqual({}, self.call("DELETE", path))
        self.assertEqual((404, "M_NOT_FOUND"), self.call("DELETE", path))

    def test_order(self) -> None:
        for name, query in (("a", {}), ("b", {"after": "a"}), ("c", {"before": "b"})):
            self.call("PUT", f"{RULES}/global/sender/@{name}:x", {"actions": []}, **{
                key: f"@{one}:x" for key, one in query.items()
            })  # fmt: skip
        found = self.call("GET", f"{RULES}/global/")["sender"]
        self.assertEqual(["@a:x", "@c:x", "@b:x"], [rule["rule_id"] for rule in found])
        refused = self.call("PUT", f"{RULES}/global/sender/@d:x", {"actions": []}, before="absent")
        self.assertEqual((400, "M_UNKNOWN"), refused)

    def test_told_by_sync(self) -> None:
        since = self.call("GET", f"{V3}/sync")["next_batch"]
        self.call("PUT", f"{RULES}/global/override/.m.rule.master/enabled", {"enabled": True})
        answer = self.call("GET", f"{V3}/sync", since=since)
        self.assertEqual(
            [{"type": "m.push_rules", "content": self.call("GET", f"{RULES}/")}],
            answer["account_data"]["events"],
        )

    def test_refusals(self) -> None:
        rule = f"{RULES}/global/override/x"
        master = f"{RULES}/global/override/.m.rule.master"
        for expected, method, path, body in (
            ((400, "M_INVALID_PARAM"), "PUT", f"{RULES}/global/override/.x", {"actions": []}),
            ((400, "M_INVALID_PARAM"), "PUT", f"{RULES}/global/override/a%2Fb", {"actions": []}),
            ((400, "M_INVALID_PARAM"), "PUT", f"{RULES}/global/nonsense/x", {"actions": []}),
            ((400, "M_INVALID_PARAM"), "GET", f"{RULES}/global/nonsense/x", None),
            ((400, "M_MISSING_PARAM"), "PUT", rule, {}),
            ((400, "M_BAD_JSON"), "PUT", rule, []),
            ((400, "M_NOT_JSON"), "PUT", rule, b"{"),
            ((404, "M_NOT_FOUND"), "PUT", f"{rule}/enabled", {"enabled": True}),
            ((404, "M_NOT_FOUND"), "PUT", f"{rule}/actions", {"actions": []}),
            ((404, "M_NOT_FOUND"), "GET", f"{rule}/enabled", None),
            ((404, "M_NOT_FOUND"), "GET", f"{rule}/actions", None),
            ((400, "M_MISSING_PARAM"), "PUT", f"{master}/enabled", {}),
            ((400, "M_BAD_JSON"), "PUT", f"{master}/enabled", {"enabled": 1}),
            ((400, "M_MISSING_PARAM"), "PUT", f"{master}/actions", {}),
            ((400, "M_BAD_JSON"), "PUT", f"{master}/actions", {"actions": "notify"}),
            ((400, "M_INVALID_PARAM"), "DELETE", master, None),
            ((400, "M_INVALID_PARAM"), "PUT", f"{RULES}/global/postcontent/x", {"actions": []}),
            ((400, "M_INVALID_PARAM"), "PUT", f"{PREFIXED}/x", {"actions": []}),
            (
                (400, "M_INVALID_PARAM"),
                "DELETE",
                f"{PREFIXED}/.io.element.msc4306.rule.subscribed_thread",
                None,
            ),
        ):
            self.assertEqual(expected, self.call(method, path, body), (method, path, body))


@on_each_database
class Pushers(PushCase):
    PUSHER: ClassVar[dict[str, Any]] = {
        "app_id": "org.example",
        "pushkey": "key",
        "kind": "http",
        "app_display_name": "App",
        "device_display_name": "Phone",
        "lang": "en",
        "data": {"url": URL, "format": "event_id_only", "own": [1]},
    }

    def set(self, **changes: Any) -> Any:
        body = {key: value for key, value in {**self.PUSHER, **changes}.items() if value != "absent"}
        return self.call("POST", f"{V3}/pushers/set", body)

    def load(self) -> Any:
        found = self.call("GET", f"{V3}/pushers")["pushers"]
        for one in found:
            # Proposed: MSC3881.
            self.assertIs(True, one.pop("org.matrix.msc3881.enabled"))
            self.assertTrue(one.pop("org.matrix.msc3881.device_id"))
        return found

    def test_a_pushers_life(self) -> None:
        self.assertEqual([], self.load())
        self.assertEqual({}, self.set())
        self.assertEqual([self.PUSHER], self.load())
        self.assertEqual({}, self.set(lang="de", profile_tag="tag"))
        self.assertEqual([{**self.PUSHER, "lang": "de", "profile_tag": "tag"}], self.load())
        self.assertEqual({}, self.set(pushkey="other"))
        self.assertEqual(2, len(self.load()))
        end = {"app_id": "org.example", "pushkey": "key", "kind": None}
        self.assertEqual({}, self.call("POST", f"{V3}/pushers/set", end))
        self.assertEqual({}, self.call("POST", f"{V3}/pushers/set", end))
        self.assertEqual(["other"], [one["pushkey"] for one in self.load()])

    def test_the_same_key_of_others(self) -> None:
        self.set()
        self.app.ok("POST", f"{V3}/pushers/set", {**self.PUSHER, "append": True}, self.bob)
        self.assertEqual(1, len(self.load()))
        self.app.ok("POST", f"{V3}/pushers/set", self.PUSHER, self.bob)
        self.assertEqual([], self.load())

    def test_refusals(self) -> None:
        for errcode, changes in (
            ("M_MISSING_PARAM", {"kind": "absent"}),
            ("M_MISSING_PARAM", {"app_id": "absent"}),
            ("M_MISSING_PARAM", {"lang": None, "data": "absent"}),
            ("M_MISSING_PARAM", {"data": {}}),
            ("M_INVALID_PARAM", {"kind": "smoke signal"}),
            ("M_INVALID_PARAM", {"kind": "email"}),
            ("M_THREEPID_NOT_FOUND", {"kind": "email", "app_id": "m.email", "pushkey": "else@example.org"}),
            ("M_INVALID_PARAM", {"app_id": "x" * 65}),
            ("M_INVALID_PARAM", {"app_id": "a\0b"}),
            ("M_INVALID_PARAM", {"pushkey": "x" * 513}),
            ("M_INVALID_PARAM", {"pushkey": "a\0b"}),
            ("M_INVALID_PARAM", {"data": {"url": "http://push.example/_matrix/push/v1/notify"}}),
            ("M_INVALID_PARAM", {"data": {"url": "https://push.example/"}}),
            ("M_INVALID_PARAM", {"data": {"url": "https://[/_matrix/push/v1/notify"}}),
            ("M_INVALID_PARAM", {"data": {"url": 1}}),
            ("M_INVALID_PARAM", {"data": {"url": URL, "format": 1}}),
            ("M_BAD_JSON", {"data": []}),
            ("M_BAD_JSON", {"append": "yes"}),
        ):
            self.assertEqual((400, errcode), self.set(**changes), changes)
        self.assertEqual({}, self.set(data={"url": URL, "format": None}))
        self.assertEqual({"url": URL}, self.load()[0]["data"])
        self.assertEqual({}, self.set(kind=None))
        # Characters of the one, bytes of the other.
        self.assertEqual({}, self.set(app_id="ö" * 64, pushkey="ö" * 256))
        self.assertEqual({}, self.set(app_id="ö" * 64, pushkey="ö" * 256, kind=None))
        self.assertEqual((413, "M_TOO_LARGE"), self.set(data={"url": URL, "x": "x" * 20_000}))
        self.patch(store, "MAX_PER_USER", 1)
        self.assertEqual([{}, {}], [self.set(), self.set()])
        self.assertEqual((403, "M_USER_LIMIT_EXCEEDED"), self.set(pushkey="other"))
