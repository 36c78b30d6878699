"""Signatures as AWS itself gives them in its examples. They are for the key that its documentation uses throughout."""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.trial import unittest

from homeserver.media.sigv4 import EMPTY_SHA256, Asked, Credentials, encode_query, sign

# From "Examples: Signature Calculations" of the Amazon S3 API reference.
CREDENTIALS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
NOW_MS = int(datetime(2013, 5, 24, tzinfo=UTC).timestamp() * 1000)
HOST = {"host": "examplebucket.s3.amazonaws.com"}


class Examples(unittest.TestCase):
    def signature(self, asked: Asked) -> str:
        signed = sign(asked, CREDENTIALS, NOW_MS)
        self.assertEqual("20130524T000000Z", signed["x-amz-date"])
        head, _, signature = signed["authorization"].rpartition(", Signature=")
        self.assertIn(
            "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders=", head
        )
        return signature

    def test_get_an_object(self) -> None:
        asked = Asked("GET", "/test.txt", "", {**HOST, "range": "bytes=0-9"}, EMPTY_SHA256)
        self.assertEqual(
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41", self.signature(asked)
        )

    def test_put_an_object(self) -> None:
        headers = {
            **HOST,
            "date": "Fri, 24 May 2013 00:00:00 GMT",
            "x-amz-storage-class": "REDUCED_REDUNDANCY",
        }
        digest = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
        asked = Asked("PUT", "/test%24file.text", "", headers, digest)
        self.assertEqual(
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd", self.signature(asked)
        )

    def test_list_objects(self) -> None:
        query = encode_query({"prefix": "J", "max-keys": "2"})
        self.assertEqual("max-keys=2&prefix=J", query)
        asked = Asked("GET", "/", query, HOST, EMPTY_SHA256)
        self.assertEqual(
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7", self.signature(asked)
        )

    def test_queries_are_encoded_whole(self) -> None:
        self.assertEqual("a=%2F%2B%3D%20&b=%C3%A9&c=", encode_query({"c": "", "b": "é", "a": "/+= "}))

    def test_the_secret_is_not_shown(self) -> None:
        self.assertNotIn("wJalr", repr(CREDENTIALS))
