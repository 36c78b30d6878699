"""Where addresses are bound: at identity servers, and no longer, when one is removed or the account ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.accounts.identity_servers import parse_account
from homeserver.accounts.types import stand_in
from homeserver.http.errors import MatrixError
from homeserver.store.threepids import load_bindings
from tests.api.test_threepids import ALICE, V3, MailCase
from tests.support.databases import on_each_database

BIND = {"client_secret": "secret", "sid": "sid1", "id_server": "id.example", "id_access_token": "idtoken"}


@on_each_database
class Binding(MailCase):
    def bind(self, **fields: Any) -> tuple[int, Any]:
        return self.app.call("POST", f"{V3}/account/3pid/bind", {**BIND, **fields}, self.alice)

    def unbind(self, what: str = "unbind", **fields: Any) -> Any:
        body = {"medium": "email", "address": "a@b.example", **fields}
        return self.app.ok("POST", f"{V3}/account/3pid/{what}", body, self.alice)["id_server_unbind_result"]

    def test_there_and_back(self) -> None:
        self.assertEqual(self.bind(), (200, {}))
        self.assertEqual(self.identity.owners, {("email", "a@b.example"): ALICE})
        self.assertEqual(self.threepids(), [])
        self.assertEqual(self.unbind(), "success")
        self.assertEqual(self.identity.owners, {})
        method, path, content, authorization = self.identity.asked[-1]
        self.assertEqual((method, path), ("POST", "/3pid/unbind"))
        self.assertEqual(content, {"mxid": ALICE, "threepid": {"medium": "email", "address": "a@b.example"}})
        self.assertTrue(authorization.startswith('X-Matrix origin="test.example",destination="id.example"'))
        self.assertEqual(self.unbind(), "no-support")
        self.assertEqual(self.unbind(id_server="id.example"), "success")

    def test_delete_unbinds_too(self) -> None:
        self.bind()
        self.assertEqual(self.unbind("delete"), "success")
        self.assertEqual(self.identity.owners, {})

    def test_a_server_that_is_down(self) -> None:
        self.bind()
        self.identity.down = True
        self.assertEqual(self.unbind(), "no-support")
        self.says((502, "M_UNKNOWN"), self.bind())
        self.identity.down = False
        # It was not forgotten.
        self.assertEqual(self.unbind(), "success")

    def test_refusals_are_passed_on(self) -> None:
        self.says((404, "M_NO_VALID_SESSION"), self.bind(sid="other"))
        self.says((403, "M_UNAUTHORIZED"), self.bind(id_access_token="wrong"))
        self.says((502, "M_UNKNOWN"), self.bind(id_server="elsewhere.example"))
        for wrong in (
            {"id_server": "a b"},
            {"id_server": "http://x/"},
            {"id_server": ""},
            {"id_access_token": "a\r\nb"},
            {"id_access_token": ""},
        ):
            self.says((400, "M_INVALID_PARAM"), self.bind(**wrong))
        self.says((400, "M_BAD_JSON"), self.bind(sid=1))
        for answer in (
            (200, b"[]"),
            (200, b"{"),
            (200, b'{"medium":1,"address":"x"}'),
            (500, b""),
            (404, b"x"),
            (200, b'{"medium":"email","address":"a\\u0000"}'),
            (200, b'{"medium":"email","address":"%b"}' % ("\N{PARTY POPPER}" * 200).encode()),
        ):
            self.identity.answers["/3pid/bind"] = answer
            self.says((502, "M_UNKNOWN"), self.bind())

    def test_no_identity_server_ends_a_session_of_ours(self) -> None:
        """Clients give up their session at the code alone, whatever the status says."""
        for status in (400, 401, 403):
            for code in ("M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_LOCKED"):
                self.identity.answers["/3pid/bind"] = (status, b'{"errcode":"%b"}' % code.encode())
                self.says((400 if status == 400 else 403, "M_FORBIDDEN"), self.bind())

    def end(self, **fields: Any) -> str:
        """End alice's account; what became of her addresses."""
        body = {"auth": self.auth(), **fields}
        answer: dict[str, str] = self.app.ok("POST", f"{V3}/account/deactivate", body, self.alice)
        return answer["id_server_unbind_result"]

    def unbound(self) -> list[str]:
        """The addresses that the identity server was asked to forget."""
        return [
            content["threepid"]["address"]
            for _, path, content, _ in self.identity.asked
            if path == "/3pid/unbind" and content is not None
        ]

    def test_the_account_ends(self) -> None:
        self.bind()
        self.assertEqual(self.end(), "success")
        self.assertEqual(self.identity.owners, {})

    def bound_late(self, *, down: bool) -> None:
        """The account ends while its identity server takes its time over a binding."""
        request, held = self.identity.request, Deferred[Any]()

        def slowly(method: str, url: str, **rest: Any) -> Deferred[Any]:
            answer = request(method, url, **rest)
            return held.addCallback(lambda _: answer) if url.endswith("/3pid/bind") else answer

        self.patch(self.identity, "request", slowly)
        binding = self.app.start("POST", f"{V3}/account/3pid/bind", BIND, self.alice)
        self.assertEqual(self.end(), "success")
        self.assertEqual(self.unbound(), [])
        self.identity.down = down
        held.callback(None)
        answer = self.app.wait(binding)
        self.says((401, "M_UNKNOWN_TOKEN"), (answer.status, answer.json))

    def kept(self) -> list[str]:
        """The addresses of alice that are known to be bound somewhere."""
        nid = self.app.wait(Deferred.fromCoroutine(self.app.app.core.interner.user(ALICE)))
        return [one.address for one in self.app.wait(self.app.database.read(load_bindings, nid))]

    def test_the_account_ends_while_an_address_is_bound(self) -> None:
        self.bound_late(down=False)
        self.assertEqual((self.unbound(), self.identity.owners, self.kept()), (["a@b.example"], {}, []))

    def test_the_account_ends_while_an_address_is_bound_that_cannot_be_unbound(self) -> None:
        self.bound_late(down=True)
        self.assertEqual(self.kept(), ["a@b.example"])

    def test_a_user_of_a_service_who_ends_while_an_address_is_bound(self) -> None:
        """As a new request of theirs is told: the token is the service's, and as good as before."""
        nid = self.app.wait(Deferred.fromCoroutine(self.app.app.core.interner.user(ALICE)))
        self.end()
        requester = replace(stand_in(ALICE, nid), appservice_id="bridge")
        account = parse_account("id.example", "idtoken")
        binding = self.app.app.services.people.threepids.bind(requester, account, "sid1", "secret")
        with self.assertRaises(MatrixError) as found:
            self.app.wait(Deferred.fromCoroutine(binding))
        self.assertEqual((found.exception.status, found.exception.errcode), (403, "M_USER_DEACTIVATED"))

    def test_the_account_ends_and_nobody_knows_where_an_address_is_bound(self) -> None:
        self.bind()
        self.have("c@d.example")
        self.assertEqual(self.end(), "no-support")
        self.assertEqual(self.unbound(), ["a@b.example"])

    def test_the_account_ends_and_the_client_knows_where(self) -> None:
        self.bind()
        for address in ("a@b.example", "c@d.example"):
            self.have(address)
            # The client may have bound it by itself.
            self.identity.owners["email", address] = ALICE
        self.assertEqual(self.end(id_server="id.example"), "success")
        self.assertEqual(self.unbound(), ["a@b.example", "c@d.example"])
        self.assertEqual(self.identity.owners, {})

    def test_the_account_ends_and_the_server_does_not_answer(self) -> None:
        self.have()
        self.assertEqual(self.end(id_server="elsewhere.example"), "no-support")
        self.assertEqual(self.app.call("GET", f"{V3}/account/whoami", token=self.alice)[0], 401)

    def test_no_account_ends_for_a_server_that_is_none(self) -> None:
        for wrong, errcode in (("a b/c", "M_INVALID_PARAM"), ("", "M_INVALID_PARAM"), (5, "M_BAD_JSON")):
            body = {"auth": self.auth(), "id_server": wrong}
            self.says((400, errcode), self.app.call("POST", f"{V3}/account/deactivate", body, self.alice))
        self.app.ok("GET", f"{V3}/account/whoami", token=self.alice)
