"""OpenID tokens. spec: client-server-api#openid, server-server-api#openid"""

from __future__ import annotations

from typing import Any

from homeserver.accounts.openid import LIFETIME_S
from tests.support.app import SERVER_NAME, TestApp
from tests.support.databases import DatabaseCase, on_each_database

ALICE = f"@alice:{SERVER_NAME}"
MAKE = f"/_matrix/client/v3/user/{ALICE}/openid/request_token"
USER_INFO = "/_matrix/federation/v1/openid/userinfo"


@on_each_database
class OpenId(DatabaseCase):
    def setUp(self) -> None:
        self.app = TestApp(self, self.new_database())
        self.alice = self.app.register("alice")

    def who(self, token: str) -> tuple[int, Any]:
        return self.app.call("GET", USER_INFO, query={"access_token": token})

    def test_exchanged_for_the_name(self) -> None:
        made = self.app.ok("POST", MAKE, {}, self.alice)
        token = made.pop("access_token")
        self.assertEqual(
            {"token_type": "Bearer", "matrix_server_name": SERVER_NAME, "expires_in": 3600}, made
        )
        # As often as one likes, and by a server that was started anew.
        for _ in range(2):
            self.assertEqual((200, {"sub": ALICE}), self.who(token))
            self.app.restart()
        self.assertNotEqual(token, self.app.ok("POST", MAKE, {}, self.alice)["access_token"])

    def test_good_for_nothing_else(self) -> None:
        token = self.app.ok("POST", MAKE, {}, self.alice)["access_token"]
        for method, path in (("GET", "/_matrix/client/v3/account/whoami"), ("POST", MAKE)):
            status, json = self.app.call(method, path, {}, token)
            self.assertEqual((401, "M_UNKNOWN_TOKEN"), (status, json["errcode"]))
        # And the other way round.
        self.assertEqual(401, self.who(self.alice)[0])

    def test_unknown(self) -> None:
        for token in ("x", "x" * 10_000, "ä", " "):
            status, json = self.who(token)
            self.assertEqual(
                (401, {"errcode": "M_UNKNOWN_TOKEN", "error": "Access token unknown or expired"}),
                (status, json),
            )
        for path in (USER_INFO, f"{USER_INFO}?access_token="):
            answer = self.app.answer("GET", path)
            self.assertEqual((401, "M_MISSING_TOKEN"), (answer.status, answer.errcode))
        # No token at all is in the way that the specification has for it.
        headers = {"Authorization": f"Bearer {self.app.ok('POST', MAKE, {}, self.alice)['access_token']}"}
        self.assertEqual(401, self.app.answer("GET", USER_INFO, headers=headers).status)

    def test_over(self) -> None:
        token = self.app.ok("POST", MAKE, {}, self.alice)["access_token"]
        self.app.advance(LIFETIME_S - 1)
        self.assertEqual(200, self.who(token)[0])
        self.app.advance(1)
        self.assertEqual(401, self.who(token)[0])

    def test_gone_with_the_account(self) -> None:
        token = self.app.ok("POST", MAKE, {}, self.alice)["access_token"]
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": "correct horse",
        }
        self.app.ok("POST", "/_matrix/client/v3/account/deactivate", {"auth": auth}, self.alice)
        self.assertEqual(401, self.who(token)[0])

    def test_for_oneself_alone(self) -> None:
        bob = self.app.register("bob")
        status, json = self.app.call("POST", MAKE, {}, bob)
        self.assertEqual((403, "M_FORBIDDEN"), (status, json["errcode"]))
        self.assertEqual(401, self.app.call("POST", MAKE, {})[0])
        for body, errcode in ((b"[]", "M_BAD_JSON"), (b"{", "M_NOT_JSON")):
            status, json = self.app.call("POST", MAKE, body, self.alice)
            self.assertEqual((400, errcode), (status, json["errcode"]))
