"""The log: shape of the lines, and secrets that must not be in them."""

from __future__ import annotations

import io
import json

from twisted.internet.task import Clock as VirtualTime
from twisted.trial.unittest import SynchronousTestCase

from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.log import HIDDEN, MAX_TEXT, Log, MemoryLog, make_log


class FailingStream(io.StringIO):
    """Takes nothing while it has an error to raise."""

    error: Exception | None = None

    def write(self, text: str, /) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


class LogTests(SynchronousTestCase):
    def setUp(self) -> None:
        time = VirtualTime()
        time.advance(1_700_000_000.5)
        self.clock = TwistedClock(time)
        self.stream = io.StringIO()
        self.log = make_log(self.clock, self.stream)

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def test_one_json_line_an_event_with_the_clocks_time(self) -> None:
        self.log.bind(room="!a").info("room created", members=2, text="two\nlines")
        self.log.debug("not shown")
        (line,) = self.lines()
        self.assertEqual(
            line,
            {
                "event": "room created",
                "level": "info",
                "members": 2,
                "room": "!a",
                "text": "two\nlines",
                "timestamp": "2023-11-14T22:13:20.500Z",
            },
        )

    def test_exceptions_are_one_line_too(self) -> None:
        try:
            raise ValueError("access_token=abc123")
        except ValueError as error:
            self.log.error("failed", exc_info=error)
        (line,) = self.lines()
        self.assertIn("ValueError", str(line["exception"]))
        self.assertNotIn("abc123", str(line))

    def test_secrets_are_hidden_wherever_they_are(self) -> None:
        self.log.info(
            "request",
            password="hunter2",
            new_password="hunter2",
            access_token="hunter2",
            Authorization="Bearer hunter2",
            shared_secret=b"hunter2",
            url="/sync?since=1&access_token=hunter2&x=y",
            header="authorization was Bearer hunter2",
            database="postgresql://user:hunter2@host/db",
            body='{"password": "hunter2", "user": "a"}',
            nested={"token": "hunter2", "inner": [{"password": "hunter2"}]},
            raw=b"GET /?access_token=hunter2 HTTP/1.1",
            event_object=Exception("refresh_token: hunter2"),
            token_count=3,
        )
        text = self.stream.getvalue()
        self.assertNotIn("hunter2", text)
        (line,) = self.lines()
        self.assertEqual(line["password"], HIDDEN)
        self.assertEqual(line["url"], f"/sync?since=1&access_token={HIDDEN}&x=y")
        self.assertEqual(line["database"], f"postgresql://user:{HIDDEN}@host/db")
        self.assertEqual(line["token_count"], 3)

    def test_lines_are_bounded(self) -> None:
        self.log.info("big", text="x" * 1_000_000, items=["y" * 10] * 10_000, deep=[[[[[[1]]]]]])
        self.assertLess(len(self.stream.getvalue()), 2 * MAX_TEXT + 1000)

    def test_a_terminal_gets_text(self) -> None:
        make_log(self.clock, self.stream, console=True, level="debug").debug(
            "hello", answer=42, token="hunter2"
        )
        line = self.stream.getvalue()
        self.assertIn("hello", line)
        self.assertIn("answer=42", line)
        self.assertNotIn("hunter2", line)
        self.assertEqual(line.count("\n"), 1)

    def test_a_line_that_cannot_be_written_stops_nothing_and_is_told_of_later(self) -> None:
        stream = FailingStream()
        log = make_log(self.clock, stream)
        log.info("before")
        for error in (OSError(28, "No space left on device"), ValueError("I/O operation on closed file")):
            stream.error = error
            log.bind(room="!a").info("one")
            log.error("two", exc_info=error)
        stream.error = None
        log.info("after")
        log.info("later")
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        self.assertEqual([line["event"] for line in lines], ["before", "after", "later"])
        self.assertEqual([line.get("lines_late_or_lost") for line in lines], [None, 4, None])

    def test_the_memory_log_keeps_what_was_bound(self) -> None:
        memory = MemoryLog()
        log: Log = memory
        log.bind(a=1).bind(b=2).warning("slow", c=3)
        self.assertEqual(memory.entries, [("warning", "slow", {"a": 1, "b": 2, "c": 3})])
        self.assertEqual(memory.events("warning"), ["slow"])

    def test_the_memory_log_keeps_what_was_raised(self) -> None:
        memory = MemoryLog()
        error = ValueError("no")
        try:
            raise error
        except ValueError:
            memory.error("failed", exc_info=True)
        self.assertEqual(memory.entries, [("error", "failed", {"exc_info": error})])
