"""Each endpoint that wants a token refuses without one, and with one that nobody has. spec: client-server-api#using-access-tokens"""

from __future__ import annotations

from urllib.parse import quote

from twisted.trial.unittest import TestCase

from homeserver.http.route import Auth, Route
from tests.support.app import SERVER_NAME, TestApp

VALUES = {
    "str": "m.some",
    "text": "text",
    "int": "1",
    "path": "a",
    "room_id": f"!room:{SERVER_NAME}",
    "user_id": f"@alice:{SERVER_NAME}",
    "member_id": f"@alice:{SERVER_NAME}",
    "event_id": "$event",
    "room_alias": f"#alias:{SERVER_NAME}",
    "room_id_or_alias": f"#alias:{SERVER_NAME}",
    "server_name": SERVER_NAME,
    "device_id": "PHONE",
    "txn_id": "t1",
}
WANT_A_TOKEN = (Auth.USER, Auth.GUEST_OK, Auth.ADMIN, Auth.APPSERVICE)


def path_for(route: Route) -> str:
    """An address of the route with plausible identifiers."""
    parts = [part if isinstance(part, str) else quote(VALUES[part[1]], safe="") for part in route.segments()]
    return "/" + "/".join(parts)


class Tokens(TestCase):
    def test_no_token_and_an_unknown_one(self) -> None:
        app = TestApp(self)
        routes = [route for route in app.app.router.routes if route.auth in WANT_A_TOKEN]
        self.assertGreaterEqual(len(routes), 100)
        for route in routes:
            path = path_for(route)
            body: dict[str, str] | None = None if route.method in ("GET", "DELETE") else {}
            for token, errcode in ((None, "M_MISSING_TOKEN"), ("nobody's", "M_UNKNOWN_TOKEN")):
                status, json = app.call(route.method, path, body, token)
                self.assertEqual(
                    (401, errcode), (status, json["errcode"]), f"{route.method} {route.template}"
                )
