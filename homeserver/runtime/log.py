"""The log: one line per event, for people on a terminal and as JSON elsewhere.

Contract:
1. A logger is an argument like the clock; there is no global one. Tests use `MemoryLog`.
2. The event is a constant text; everything that varies is a field.
3. Secrets never appear: fields that are named like one are hidden, and so is what looks like one in any text.
4. A line is bounded: long texts are cut.
5. Logging never raises because of the stream: a line that cannot be written is counted, and the work goes on.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO, cast

import structlog
from twisted.logger import LogEvent, LogLevel, globalLogBeginner

from homeserver.runtime.clock import Clock

HIDDEN = "[hidden]"
MAX_TEXT = 2_000
MAX_TRACEBACK = 20_000

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_SECRET_NAME = re.compile(
    r"(?i)token$|password|passphrase|secret|authorization|cookie|credential|private_key|\bseed\b|pepper|api_key"
)
_SECRET_TEXT = re.compile(
    r"""(?ix)
    (?P<keep> (?:access_token|refresh_token|login_?token|password|secret) ["']? \s*[=:]\s* ["']?
      | \bbearer\s+
      | [a-z][a-z0-9+.\-]{1,20}://[^\s/:@]{1,200}: (?=[^\s/@]{1,500}@) )
    [^\s&"',}@]{1,2000}"""
)


class Log(Protocol):
    """What the code logs through."""

    def debug(self, event: str, /, **fields: Any) -> Any:
        """Of use while looking for a fault."""

    def info(self, event: str, /, **fields: Any) -> Any:
        """A change that an administrator may want to know of."""

    def warning(self, event: str, /, **fields: Any) -> Any:
        """Something that works less well than it should."""

    def error(self, event: str, /, **fields: Any) -> Any:
        """Something failed that should not. `exc_info=` takes the exception."""

    def bind(self, **fields: Any) -> Log:
        """A logger that adds these fields to each event."""


def make_log(clock: Clock, stream: TextIO, *, level: str = "info", console: bool = False) -> Log:
    """A logger that writes to `stream`."""
    renderer: Any = (
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
        )
        if console
        else structlog.processors.JSONRenderer(default=str)
    )
    lines = _Lines(stream)
    logger = structlog.wrap_logger(
        lines,
        processors=[
            structlog.processors.add_log_level,
            _Timestamp(clock),
            lines.tell_losses,
            structlog.processors.format_exc_info,
            hide_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast(Log, logger.bind())


def capture_twisted(log: Log) -> None:
    """Send what Twisted itself logs (errors in forgotten Deferreds above all) through `log`."""

    def observe(event: LogEvent) -> None:
        failure = event.get("log_failure")
        level = event.get("log_level", LogLevel.info)
        if failure is not None:
            cause = (failure.type, failure.value, failure.getTracebackObject())
            log.error("unhandled error", exc_info=cause, source=event.get("log_namespace"))
        elif level in (LogLevel.error, LogLevel.critical):
            log.error("library error", text=_format_twisted(event), source=event.get("log_namespace"))
        elif level is LogLevel.warn:
            log.warning("library warning", text=_format_twisted(event), source=event.get("log_namespace"))

    # An observer is any callable, which zope's interface cannot tell a type checker.
    observers: list[Any] = [observe]
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False, discardBuffer=True)


def hide_secrets(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The processor that keeps the third and fourth promise of this module."""
    for name, value in event.items():
        event[name] = HIDDEN if _SECRET_NAME.search(name) else _clean(value, name, depth=0)
    return event


class MemoryLog:
    """A logger for tests: keeps `(level, event, fields)`, with the exception that `exc_info=True` stands for."""

    __slots__ = ("_bound", "entries")

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, dict[str, Any]]] = []
        self._bound: dict[str, Any] = {}

    def debug(self, event: str, /, **fields: Any) -> None:
        self.entries.append(("debug", event, {**self._bound, **fields}))

    def info(self, event: str, /, **fields: Any) -> None:
        self.entries.append(("info", event, {**self._bound, **fields}))

    def warning(self, event: str, /, **fields: Any) -> None:
        self.entries.append(("warning", event, {**self._bound, **fields}))

    def error(self, event: str, /, **fields: Any) -> None:
        if fields.get("exc_info") is True:
            fields["exc_info"] = sys.exception()
        self.entries.append(("error", event, {**self._bound, **fields}))

    def bind(self, **fields: Any) -> MemoryLog:
        bound = MemoryLog()
        bound.entries = self.entries
        bound._bound = {**self._bound, **fields}
        return bound

    def events(self, level: str) -> list[str]:
        """The texts of one level, in order."""
        return [event for entry_level, event, _ in self.entries if entry_level == level]


class _Lines(structlog.PrintLogger):
    """Writes lines. After some that could not be written (a full disk, a pipe that nobody reads any more), the next one
    that can be says how many: `lines_late_or_lost`, as a stream with a buffer may write some of them yet.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._missing = 0

    def msg(self, message: str) -> None:
        try:
            super().msg(message)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._missing += 1
        else:
            self._missing = 0

    debug = info = warning = error = msg

    def tell_losses(self, _: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """The processor that tells."""
        if self._missing:
            event["lines_late_or_lost"] = self._missing
        return event


class _Timestamp:
    """Adds the clock's time, so that the simulator's log carries simulated time."""

    __slots__ = ("_clock",)

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(self, _: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        moment = datetime.fromtimestamp(self._clock.seconds(), tz=UTC)
        event["timestamp"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return event


def _clean(value: Any, name: str, depth: int) -> Any:
    if isinstance(value, bytes):
        value = value[: MAX_TEXT + 1].decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        longest = MAX_TRACEBACK if name == "exception" else MAX_TEXT
        text = value if len(value) <= longest else f"{value[:longest]}… ({len(value)} characters)"
        return _SECRET_TEXT.sub(lambda match: match["keep"] + HIDDEN, text)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= 3:
        return "…"
    if isinstance(value, Mapping):
        return {
            str(key)[:100]: HIDDEN if _SECRET_NAME.search(str(key)[:100]) else _clean(inner, name, depth + 1)
            for key, inner in list(value.items())[:50]
        }
    if isinstance(value, list | tuple):
        return [_clean(inner, name, depth + 1) for inner in value[:50]]
    return _clean(str(value), name, depth)


def _format_twisted(event: LogEvent) -> str:
    try:
        return str(event.get("log_format") or "").format(**event)
    except (KeyError, IndexError, ValueError, AttributeError):
        return str(event.get("log_format"))
