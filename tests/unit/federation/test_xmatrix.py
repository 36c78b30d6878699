"""Request authentication. # spec: server-server-api#request-authentication"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from signedjson.key import decode_verify_key_bytes
from signedjson.sign import verify_signed_json
from twisted.trial.unittest import SynchronousTestCase

from federation import xmatrix
from federation.canonical import encode
from federation.errors import Malformed
from federation.hashes import unpadded
from federation.ids import ServerName
from tests.unit.federation.samples import KEY, KEYS, OTHER_KEY, SERVER

DESTINATION = ServerName("destination.hs.example.com")


class Headers(SynchronousTestCase):
    def test_forms_that_must_parse(self) -> None:
        for text in (
            'X-Matrix origin="a.b",destination="c.d",key="ed25519:k",sig="c2ln"',
            "x-matrix origin=a.b,destination=c.d,key=ed25519:k,sig=c2ln",
            'X-Matrix   SIG="c2ln" \t, Key="ed25519:k",\torigin="a.b" ,destination="c.d"',
            'X-Matrix origin="a\\.b",destination="c.d",key="ed25519:k",sig="c2ln",other="x,y=\\"z\\"",more=1',
            'X-Matrix origin="a.b",,destination="c.d",key="ed25519:k",sig="c2ln=",',
            'X-Matrix origin="a.b",destination="c.d",key="ed25519:k",signature="c2ln"',
            'X-Matrix origin="a.b",destination="c.d",key="ed25519:k",signature="other",sig="c2ln"',
        ):
            header = xmatrix.parse(text)
            self.assertEqual((header.origin, header.destination), ("a.b", "c.d"))
            self.assertEqual((header.key_id, header.signature), ("ed25519:k", b"sig"))
        bare = xmatrix.parse("X-Matrix origin=a.b:8448,key=ed25519:k,sig=c2ln")
        self.assertEqual((bare.origin, bare.destination), ("a.b:8448", None))
        self.assertEqual(
            xmatrix.parse('X-Matrix origin="[::1]:8448",key=ed25519:k,sig=c2ln').origin, "[::1]:8448"
        )

    def test_forms_that_must_not(self) -> None:
        good = "origin=a.b,key=ed25519:k,sig=c2ln"
        for text in (
            "",
            "Bearer abc",
            "X-Matrix",
            "X-Matrix ",
            "X-Matrix\t" + good,
            "X-Matrixx " + good,
            "X-Matrix origin=a.b,key=ed25519:k",
            "X-Matrix origin=a.b,sig=c2ln",
            "X-Matrix key=ed25519:k,sig=c2ln",
            "X-Matrix " + good + ",origin=a.b",
            "X-Matrix " + good + ",x=",
            "X-Matrix " + good + ' x="y"',
            "X-Matrix " + good + ',x="y',
            "X-Matrix " + good + ",x=a b",
            "X-Matrix " + good + ",x = y",
            'X-Matrix origin="a b",key=ed25519:k,sig=c2ln',
            'X-Matrix origin="",key=ed25519:k,sig=c2ln',
            "X-Matrix origin=a.b,key=rsa:k,sig=c2ln",
            'X-Matrix origin=a.b,key=ed25519:k,sig="!!"',
            "X-Matrix origin=a.b,destination=:1,key=ed25519:k,sig=c2ln",
            "X-Matrix " + good + ",x=" + "y" * 5000,
            "X-Matrix " + good + "".join(f",x{number}=1" for number in range(40)),
            "X-Matrix " + "," * 4000,
        ):
            error = self.assertRaises(Malformed, xmatrix.parse, text)
            self.assertEqual((error.errcode, error.status), ("M_UNAUTHORIZED", 401), text)


class Requests(SynchronousTestCase):
    def header(self, body: bytes | None = None, **changes: Any) -> xmatrix.XMatrix:
        options = {"method": "PUT", "uri": "/_matrix/x?a=%20b", "destination": DESTINATION, **changes}
        return xmatrix.parse(xmatrix.build(KEY, canonical_body=body, **options))

    def verify(self, header: xmatrix.XMatrix, **changes: Any) -> None:
        options: dict[str, Any] = {
            "server_name": DESTINATION,
            "method": "PUT",
            "uri": "/_matrix/x?a=%20b",
            "has_content": False,
            "keys": KEYS[SERVER],
            **changes,
        }
        xmatrix.verify(header, **options)

    def test_example_layout(self) -> None:
        text = xmatrix.build(KEY, method="GET", uri="/x", destination=DESTINATION)
        self.assertTrue(
            text.startswith(f'X-Matrix origin="{SERVER}",destination="{DESTINATION}",key="ed25519:a",sig="'),
            text,
        )

    def test_what_is_signed(self) -> None:
        body = {"pdus": [{"b": 1, "a": "é"}]}
        header = self.header(encode(body))
        request = {
            "method": "PUT",
            "uri": "/_matrix/x?a=%20b",
            "origin": SERVER,
            "destination": DESTINATION,
            "content": body,
            "signatures": {SERVER: {KEY.key_id: unpadded(header.signature)}},
        }
        verify_signed_json(request, SERVER, decode_verify_key_bytes(KEY.key_id, KEY.public_key))

    @given(
        st.dictionaries(
            st.text(),
            st.one_of(st.integers(-99, 99), st.floats(allow_nan=False, allow_infinity=False), st.text()),
        )
    )
    def test_round_trip_with_any_body(self, body: dict[str, Any]) -> None:
        from_their_side: dict[str, Any] = {
            "method": "PUT",
            "uri": "/_matrix/x?a=%20b",
            "origin": SERVER,
            "destination": DESTINATION,
            "content": body,
        }
        signature = KEY.sign(xmatrix.signed_bytes(**from_their_side, has_content=True))
        header = xmatrix.XMatrix(SERVER, DESTINATION, KEY.key_id, signature)
        self.verify(header, content=body, has_content=True)

    def test_refusals(self) -> None:
        self.verify(self.header())
        self.verify(self.header(b"{}"), content={}, has_content=True)
        cases: list[tuple[xmatrix.XMatrix, dict[str, Any]]] = [
            (self.header(), {"method": "GET"}),
            (self.header(), {"uri": "/_matrix/x?a= b"}),
            (self.header(), {"server_name": ServerName("c.d")}),
            (self.header(destination=ServerName("c.d")), {}),
            (self.header(), {"keys": {}}),
            (self.header(), {"keys": {KEY.key_id: OTHER_KEY.public_key}}),
            (self.header(), {"content": {}, "has_content": True}),
            (self.header(b"{}"), {}),
            (self.header(b"{}"), {"content": {"a": 1}, "has_content": True}),
            (self.header(), {"uri": "/\ud800"}),
        ]
        for header, changes in cases:
            error = self.assertRaises(Malformed, self.verify, header, **changes)
            self.assertEqual((error.errcode, error.status), ("M_UNAUTHORIZED", 401), changes)

    def test_without_destination(self) -> None:
        message = xmatrix.signed_bytes(
            method="GET", uri="/x", origin=SERVER, destination=None, has_content=False
        )
        header = xmatrix.XMatrix(SERVER, None, KEY.key_id, KEY.sign(message))
        self.verify(header, method="GET", uri="/x")
