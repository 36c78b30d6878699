"""Two parts, byte by byte and all at once, from servers that keep to the rules and from those that do not."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from homeserver.media.multipart import (
    MAX_HEADERS,
    MAX_METADATA,
    MAX_PREAMBLE,
    BadMultipartError,
    Described,
    MultipartReader,
    TooLongError,
    file_name_of,
    head_of,
    parse_parameters,
    tail_of,
)

MIXED = "multipart/mixed; boundary=b0"
META = b"Content-Type: application/json\r\n\r\n{}"
HEAD = b"--b0\r\n" + META + b"\r\n--b0\r\n"
TAIL = b"\r\n--b0--\r\n"


def read(
    body: bytes, step: int | None = None, content_type: str = MIXED, most: int = 1_000
) -> tuple[Described, bytes]:
    pieces: list[bytes] = []
    reader = MultipartReader(pieces.append, most)
    for start in range(0, len(body), step or max(1, len(body))):
        reader.feed(body[start : start + (step or len(body))])
    return reader.close(content_type), b"".join(pieces)


class Reading(SynchronousTestCase):
    def test_as_we_send_it(self) -> None:
        body = head_of("b0", "image/png", b'inline; filename="a.png"') + b"data" + tail_of("b0")
        for step in (1, 2, 3, 7, 50, None):
            described, data = read(body, step)
            self.assertEqual(Described("image/png", 'inline; filename="a.png"'), described)
            self.assertEqual(b"data", data)

    def test_whatever_is_in_the_file(self) -> None:
        pieces = [b"\r\n", b"--", b"b0", b"\r", b"\n", b"-", b"b", b"0", b"x", b"\0", b"\r\n--b", b"--b0--"]

        @settings(max_examples=200, deadline=None, database=None)
        @given(st.lists(st.sampled_from(pieces), max_size=12).map(b"".join), st.integers(1, 40))
        def check(data: bytes, step: int) -> None:
            if b"\r\n--b0" in b"\r\n" + data + b"\r\n":
                return  # such a boundary may not be chosen for it
            body = HEAD + b"Content-Type: text/plain\r\n\r\n" + data + TAIL
            self.assertEqual(data, read(body, step)[1])

        check()

    def test_other_ways_to_write_it(self) -> None:
        plain = b"Content-Type: text/plain\r\n\r\nx"
        for body in (
            b"\r\n" + HEAD + plain + TAIL,  # an empty preamble
            b"This is for old readers.\r\n\r\n" + HEAD + plain + TAIL,
            HEAD + plain + b"\r\n--b0--",  # no line break at the end
            HEAD + plain + TAIL + b"an epilogue\r\n--b0\r\n" + b"y" * 100_000,
            HEAD.replace(b"--b0\r\n", b"--b0 \t\r\n") + plain + TAIL,
            HEAD + b"content-TYPE:text/plain\t\r\nX: a\r\n\tb\r\nContent-Type: image/png\r\n\r\nx" + TAIL,
            HEAD
            + b"Content-Length: 1\r\nContent-Transfer-Encoding: Binary\r\nContent-Type:  text/plain\r\n\r\nx"
            + TAIL,
            b"--b0\r\n\r\n{}\r\n--b0\r\n" + plain + TAIL,  # no headers
        ):
            for step in (1, 5, None):
                self.assertEqual((Described("text/plain", ""), b"x"), read(body, step), body)
        quoted = 'Multipart/Mixed; charset=utf-8; boundary="b0"'
        self.assertEqual(b"x", read(HEAD + plain + TAIL, content_type=quoted)[1])
        other = HEAD.replace(b"b0", b"a b:c") + plain + TAIL.replace(b"b0", b"a b:c")
        self.assertEqual(b"x", read(other, content_type='multipart/mixed; boundary="a b:c"')[1])

    def test_empty_files(self) -> None:
        for body in (
            HEAD + b"Content-Type: text/plain\r\n\r\n" + TAIL,
            HEAD + b"Content-Type: text/plain\r\n" + TAIL,  # the empty line is the delimiter's
        ):
            for step in (1, 2, None):
                self.assertEqual((Described("text/plain", ""), b""), read(body, step))

    def test_a_place_elsewhere(self) -> None:
        body = HEAD + b"Location: https://cdn.example/x?y=z\r\n\r\nnot the file" + TAIL
        for step in (1, None):
            described, data = read(body, step)
            self.assertEqual(("https://cdn.example/x?y=z", b""), (described.location, data))

    def test_an_end_that_looks_like_a_beginning(self) -> None:
        """As ruma ends it from August 2026 on."""
        for step in (1, 3, None):
            described, data = read(HEAD + b"Content-Type: text/plain\r\n\r\ndata\r\n--b0", step)
            self.assertEqual(("text/plain", b"data"), (described.content_type, data))

    def test_not_larger_than(self) -> None:
        body = HEAD + b"\r\n" + b"x" * 1_001 + TAIL
        for step in (1, 10, None):
            self.assertRaises(TooLongError, read, body, step)
        self.assertEqual(1_001, len(read(body, most=1_001)[1]))
        self.assertRaises(TooLongError, read, HEAD + b"\r\nx" + TAIL, None, MIXED, 0)

    def test_refused(self) -> None:
        good = b"Content-Type: text/plain\r\n\r\nx"
        for body in (
            b"",
            b"--b0",
            b"{}",
            HEAD,
            HEAD + good,
            HEAD + good + b"\r\n--b0-",
            HEAD + good + b"\r\n--b0\r\n",
            HEAD + good + b"\r\n--b0\r\n" + good + TAIL,  # three parts
            b"--b0\r\n" + META + TAIL,  # one
            b"--b0--\r\n",
            HEAD + good + b"\r\n--b0x\r\n" + TAIL,
            HEAD + b"no header\r\n\r\nx" + TAIL,
            HEAD + b": x\r\n\r\nx" + TAIL,
            HEAD + b"Content-Transfer-Encoding: base64\r\n\r\neA==" + TAIL,
            HEAD + b"Content-Length: 2\r\n\r\nx" + TAIL,
            HEAD.replace(b"{}", b"[]") + good + TAIL,
            HEAD.replace(b"{}", b"{") + good + TAIL,
            HEAD.replace(b"{}", b"[" * 60_000) + good + TAIL,
            HEAD.replace(b"{}", b'"\xff"') + good + TAIL,
            HEAD.replace(b"{}", b"") + good + TAIL,
            HEAD.replace(b"b0", b"c0") + good + TAIL.replace(b"b0", b"c0"),
            HEAD.replace(b"b0", b"") + good + TAIL.replace(b"b0", b""),
            HEAD.replace(b"\r\n", b"\n") + good + TAIL,
        ):
            for step in (1, None):
                self.assertRaises(BadMultipartError, read, body, step)
        for content_type in (
            "",
            "text/plain",
            "multipart/mixed",
            "multipart/mixed; boundary=",
            "multipart/form-data; boundary=b0",
            'multipart/mixed; boundary="b0',
        ):
            self.assertRaises(BadMultipartError, read, HEAD + good + TAIL, None, content_type)

    def test_bounded(self) -> None:
        for start, more, most in (
            (b"", b"x", MAX_PREAMBLE),
            (b"", b"x\r\n", MAX_PREAMBLE),
            (b"--", b"b", MAX_PREAMBLE),
            (b"--b0\r\n", b"x", MAX_HEADERS),
            (b"--b0\r\n", b"x: y\r\n", MAX_HEADERS),
            (b"--b0\r\n\r\n", b"x", MAX_METADATA),
            (HEAD + b"Location: https://x\r\n\r\n", b"x", MAX_METADATA),
            (HEAD + b"\r\nx\r\n--b0", b" ", MAX_PREAMBLE),
        ):
            reader = MultipartReader(lambda _: None, 10)
            reader.feed(start)
            sent = 0
            with self.assertRaises(BadMultipartError):
                while sent < 4 * most:
                    reader.feed(more * 100)
                    sent += 100 * len(more)
            self.assertLess(sent, most + 1_000)

    def test_any_bytes(self) -> None:
        @settings(max_examples=200, deadline=None, database=None)
        @given(st.binary(max_size=300), st.integers(1, 30))
        def check(data: bytes, step: int) -> None:
            for body in (data, HEAD + data, HEAD[:20] + data):
                try:
                    read(body, step)
                except (BadMultipartError, TooLongError):
                    continue

        check()


class Headers(SynchronousTestCase):
    def test_parameters(self) -> None:
        for value, expected in (
            ("a/b", ("a/b", {})),
            ('A/B ; X=1;y = "2;3" ; x=4', ("a/b", {"x": "1", "y": "2;3"})),
            ('a; b="\\"c\\\\"', ("a", {"b": '"c\\'})),
            (";;;", ("", {})),
            ("a; b", ("a", {})),
        ):
            self.assertEqual(expected, parse_parameters(value))

    def test_file_names(self) -> None:
        for value, expected in (
            ("", None),
            ("inline", None),
            ("inline; filename=a.png", "a.png"),
            ('attachment; filename="a b.png"', "a b.png"),
            ("inline; filename=a.png; filename*=utf-8''%C3%A4.png", "ä.png"),
            ("inline; filename*=UTF-8'de'%C3%A4.png", "ä.png"),
            ("inline; filename=a.png; filename*=latin-1''%E4.png", "a.png"),
            ("inline; filename=a.png; filename*=utf-8''%FF", "a.png"),
            ("inline; filename*=utf-8''a%00b", None),
            ("inline; filename*=broken", None),
            ('inline; filename="' + "n" * 101 + '"', None),
            ('inline; filename="../../etc/passwd"', "../../etc/passwd"),
        ):
            self.assertEqual(expected, file_name_of(value, 100), value)
