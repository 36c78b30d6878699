"""Discovery as a flow: every step of the specification, and what is remembered for how long."""

from __future__ import annotations

import unittest
from collections.abc import Mapping, Sequence
from typing import Any

from federation.flows.discovery import (
    DEFAULT_LIFE_MS,
    ERROR_LIFE_MS,
    MAX_ERROR_LIFE_MS,
    MAX_LIFE_MS,
    MIN_LIFE_MS,
    SILENCE_LIFE_MS,
    Endpoint,
    Location,
    WellKnown,
    discover,
    needs_well_known,
    read_well_known,
)
from federation.flows.needs import HttpAnswer, NeedHttp, NeedSrv, SrvRecord
from federation.ids import ServerName

NOW_MS = 1_700_000_000_000


def find(
    name: str,
    well_known: HttpAnswer | None = None,
    records: Mapping[str, Sequence[SrvRecord] | None] | None = None,
    known: WellKnown | None = None,
) -> tuple[Location, list[str]]:
    """Where a server is, and what was asked on the way."""
    asked: list[str] = []
    flow = discover(ServerName(name), known, NOW_MS)
    reply: Any = None
    while True:
        try:
            need = flow.send(reply)
        except StopIteration as done:
            return done.value, asked
        if isinstance(need, NeedHttp):
            asked.append(need.url)
            reply = well_known
        else:
            assert isinstance(need, NeedSrv)
            asked.append(need.name)
            reply = (records or {}).get(need.name, ())


def delegation(name: str, **headers: str) -> HttpAnswer:
    fields = {key.replace("_", "-"): value for key, value in headers.items()}
    return HttpAnswer(200, b'{"m.server": "%s"}' % name.encode(), fields)


WELL_KNOWN = "https://example.org/.well-known/matrix/server"


class Steps(unittest.TestCase):
    def places(self, name: str, *args: Any, **kwargs: Any) -> list[Endpoint]:
        return list(find(name, *args, **kwargs)[0].endpoints)

    def test_addresses_say_everything(self) -> None:
        for name, host, port in (
            ("1.2.3.4", "1.2.3.4", 8448),
            ("1.2.3.4:80", "1.2.3.4", 80),
            ("[2001:db8::1]", "2001:db8::1", 8448),
            ("[2001:db8::1]:443", "2001:db8::1", 443),
        ):
            location, asked = find(name)
            self.assertEqual(location.endpoints, (Endpoint(host, port, host, name),))
            self.assertEqual(asked, [])

    def test_a_port_says_everything(self) -> None:
        location, asked = find("example.org:1234")
        self.assertEqual(
            location.endpoints, (Endpoint("example.org", 1234, "example.org", "example.org:1234"),)
        )
        self.assertEqual(asked, [])

    def test_well_known_to_an_address_or_a_port(self) -> None:
        for delegate, host, port in (
            ("1.2.3.4", "1.2.3.4", 8448),
            ("[2001:db8::1]:1", "2001:db8::1", 1),
            ("matrix.example.net:443", "matrix.example.net", 443),
        ):
            location, asked = find("example.org", delegation(delegate))
            self.assertEqual(location.endpoints, (Endpoint(host, port, host, delegate),))
            self.assertEqual(asked, [WELL_KNOWN])

    def test_well_known_to_a_name_with_records(self) -> None:
        records = {
            "_matrix-fed._tcp.m.example.net": [
                SrvRecord("one.example.", 1, 300),
                SrvRecord("two.example", 2, 900),
            ],
            "_matrix._tcp.m.example.net": [SrvRecord("old.example", 3, 300)],
        }
        location, asked = find("example.org", delegation("m.example.net"), records)
        self.assertEqual(
            location.endpoints,
            (
                Endpoint("one.example", 1, "m.example.net", "m.example.net"),
                Endpoint("two.example", 2, "m.example.net", "m.example.net"),
            ),
        )
        self.assertEqual(asked, [WELL_KNOWN, "_matrix-fed._tcp.m.example.net"])
        self.assertEqual(location.until_ts_ms, NOW_MS + 300_000)

    def test_the_old_record_name_and_the_default_port(self) -> None:
        records = {"_matrix._tcp.m.example.net": [SrvRecord("old.example", 3, 300)]}
        self.assertEqual(
            self.places("example.org", delegation("m.example.net"), records),
            [Endpoint("old.example", 3, "m.example.net", "m.example.net")],
        )
        self.assertEqual(
            self.places("example.org", delegation("m.example.net")),
            [Endpoint("m.example.net", 8448, "m.example.net", "m.example.net")],
        )

    def test_records_that_nobody_could_tell_are_looked_for_again_soon(self) -> None:
        old = [SrvRecord("old.example", 3, 3600)]
        for records, host in (
            ({"_matrix-fed._tcp.m.example.net": None, "_matrix._tcp.m.example.net": None}, "m.example.net"),
            ({"_matrix._tcp.m.example.net": None}, "m.example.net"),
            ({"_matrix-fed._tcp.m.example.net": None, "_matrix._tcp.m.example.net": old}, "old.example"),
        ):
            location, _ = find("example.org", delegation("m.example.net"), records)
            self.assertEqual(location.endpoints[0].host, host)
            self.assertEqual(location.until_ts_ms, NOW_MS + SILENCE_LIFE_MS)

    def test_without_well_known_the_name_itself(self) -> None:
        for answer in (
            None,
            HttpAnswer(404, b"{}"),
            HttpAnswer(200, b"<html>"),
            HttpAnswer(200, b"{}"),
            HttpAnswer(200, b"[]"),
            HttpAnswer(200, b'{"m.server": 7}'),
            HttpAnswer(200, b'{"m.server": "https://example.net"}'),
            HttpAnswer(200, b'{"m.server": "x\\u0000"}'),
            HttpAnswer(200, b'{"m.server": "m.example.net", "x": "' + b"x" * 60_000 + b'"}'),
            HttpAnswer(302, b'{"m.server": "m.example.net"}'),
        ):
            records = {"_matrix-fed._tcp.example.org": [SrvRecord("one.example", 1, 300)]}
            self.assertEqual(
                self.places("example.org", answer, records),
                [Endpoint("one.example", 1, "example.org", "example.org")],
            )
            self.assertEqual(
                self.places("example.org", answer),
                [Endpoint("example.org", 8448, "example.org", "example.org")],
            )

    def test_a_record_that_says_there_is_no_service_is_none(self) -> None:
        records = {"_matrix-fed._tcp.example.org": [SrvRecord(".", 0, 300), SrvRecord("", 0, 300)]}
        self.assertEqual(self.places("example.org", None, records)[0].port, 8448)

    def test_a_thousand_records_are_a_few(self) -> None:
        records = {"_matrix-fed._tcp.example.org": [SrvRecord(f"h{n}.example", 1, 0) for n in range(1000)]}
        location, _ = find("example.org", None, records)
        self.assertEqual(len(location.endpoints), 16)
        # And a life of nothing is a minute.
        self.assertEqual(location.until_ts_ms, NOW_MS + SILENCE_LIFE_MS)

    def test_what_is_remembered_is_not_asked_for(self) -> None:
        known = WellKnown(ServerName("m.example.net:1"), NOW_MS + 1, NOW_MS - 1000)
        location, asked = find("example.org", None, known=known)
        self.assertEqual((location.endpoints[0].host, asked), ("m.example.net", []))
        nothing = WellKnown(None, NOW_MS + 1, NOW_MS, failures=1)
        location, asked = find("example.org", delegation("m.example.net:1"), known=nothing)
        self.assertEqual(location.endpoints[0].host, "example.org")
        self.assertNotIn(WELL_KNOWN, asked)

    def test_which_names_have_a_well_known(self) -> None:
        self.assertEqual(needs_well_known(ServerName("example.org")), "example.org")
        for name in ("example.org:8448", "1.2.3.4", "[::1]", "[::1]:80"):
            self.assertIsNone(needs_well_known(ServerName(name)))


class Lives(unittest.TestCase):
    def life(self, answer: HttpAnswer | None, known: WellKnown | None = None) -> int:
        return read_well_known(answer, known, NOW_MS).until_ts_ms - NOW_MS

    def test_a_good_answer_lives_as_it_says_within_bounds(self) -> None:
        for headers, life_ms in (
            ({}, DEFAULT_LIFE_MS),
            ({"cache_control": "max-age=3600"}, 3_600_000),
            ({"cache_control": 'public, Max-Age="7200"'}, 7_200_000),
            ({"cache_control": "max-age=3600", "age": "600"}, 3_000_000),
            ({"cache_control": "max-age=3600", "expires": "0"}, 3_600_000),
            ({"cache_control": "max-age=999999999999"}, MAX_LIFE_MS),
            ({"cache_control": "max-age=1"}, MIN_LIFE_MS),
            ({"cache_control": "no-store"}, MIN_LIFE_MS),
            ({"cache_control": "s-max-age=5"}, DEFAULT_LIFE_MS),
            ({"expires": "Wed, 15 Nov 2023 00:13:20 GMT"}, 7_200_000),
            ({"expires": "Thu, 01 Jan 1970 00:00:00 GMT"}, MIN_LIFE_MS),
            ({"expires": "0"}, MIN_LIFE_MS),
            ({"expires": "Mon, 99 Foo 99999999999999 99:99:99 +9999"}, MIN_LIFE_MS),
        ):
            self.assertEqual(self.life(delegation("m.example.net", **headers)), life_ms, headers)

    def test_errors_live_longer_each_time_up_to_an_hour(self) -> None:
        for answer, first_ms in ((None, SILENCE_LIFE_MS), (HttpAnswer(404, b""), ERROR_LIFE_MS)):
            known: WellKnown | None = None
            lives = []
            for _ in range(30):
                known = read_well_known(answer, known, NOW_MS)
                lives.append(known.until_ts_ms - NOW_MS)
            self.assertEqual(lives[:3], [first_ms, 2 * first_ms, 4 * first_ms])
            self.assertEqual(lives[-1], MAX_ERROR_LIFE_MS)

    def test_an_error_may_ask_for_at_most_an_hour(self) -> None:
        wish = {"cache-control": "max-age=900000"}
        self.assertEqual(self.life(HttpAnswer(404, b"", wish)), MAX_ERROR_LIFE_MS)

    def test_a_success_ends_the_failures(self) -> None:
        failed = read_well_known(None, None, NOW_MS)
        self.assertEqual(read_well_known(delegation("a.b"), failed, NOW_MS).failures, 0)

    def test_a_word_that_was_given_outlives_silence_but_not_the_most(self) -> None:
        known = WellKnown(ServerName("m.example.net"), NOW_MS, NOW_MS - DEFAULT_LIFE_MS)
        for answer in (None, HttpAnswer(503, b"")):
            kept = read_well_known(answer, known, NOW_MS)
            self.assertEqual((kept.delegate, kept.failures), ("m.example.net", 1))
            self.assertEqual(kept.until_ts_ms, NOW_MS + SILENCE_LIFE_MS)
        # An answer that it is not there is another word.
        self.assertIsNone(read_well_known(HttpAnswer(404, b""), known, NOW_MS).delegate)
        old = WellKnown(ServerName("m.example.net"), NOW_MS, NOW_MS - MAX_LIFE_MS)
        self.assertIsNone(read_well_known(None, old, NOW_MS).delegate)
