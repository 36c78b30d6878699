"""What clients are told when other servers refuse what they are asked for."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import quote

from homeserver.http.transport import PeerRequest
from tests.federation.people import NetCase
from tests.support.databases import on_each_database


@on_each_database
class Refusals(NetCase):
    def test_they_end_no_session_of_ours(self) -> None:
        """Clients give up their session, and their keys with it, at a code alone, whatever the status says."""
        liar = self.net.stranger("d.example")
        room_id = self.create(self.a, self.alice)
        for code in ("M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_LOCKED", "M_USER_DEACTIVATED"):
            for status, told in ((400, 400), (403, 403), (401, 502)):
                refusal = (status, {"errcode": code, "error": "no", "soft_logout": False})
                liar.answers["GET", "/_matrix/federation/v1/"] = partial(_say, refusal)
                liar.answers["PUT", "/_matrix/federation/"] = partial(_say, refusal)
                for step in ("join", "knock"):
                    path = f"/{step}/{quote('!room:d.example')}"
                    answer = self.call(self.b, self.bob, "POST", path, {})
                    errcode = "M_UNKNOWN" if told == 502 else "M_FORBIDDEN"
                    self.refused(answer, told, errcode)
                    self.assertNotIn("soft_logout", answer.json)
                path = f"/rooms/{quote(room_id)}/invite"
                answer = self.call(self.a, self.alice, "POST", path, {"user_id": "@x:d.example"})
                self.assertIn(answer.errcode, ("M_FORBIDDEN", "M_UNKNOWN"))


def _say(told: tuple[int, Any], _: PeerRequest) -> tuple[int, Any]:
    return told
