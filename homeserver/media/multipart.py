"""Media between servers: ``multipart/mixed`` of exactly two parts, what is known of a file and the file itself.

The reader takes the body as it comes and passes the file on piece by piece. Whatever is not just as specified is
refused; what it holds is bounded by the limits below, whoever sends it and however long.
spec: server-server-api#get_matrixfederationv1mediadownloadmediaid
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

MAX_PREAMBLE: Final = 8_192
MAX_HEADERS: Final = 16_384
MAX_METADATA: Final = 65_536
# All of a body that is not the file.
MAX_AROUND: Final = 2 * (MAX_PREAMBLE + MAX_HEADERS + MAX_METADATA)

# spec: RFC 2046, section 5.1.1
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_PARAMETER = re.compile(r';[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^;"]*))')
_PLAIN_ENCODINGS: Final = frozenset({"", "7bit", "8bit", "binary"})


class BadMultipartError(Exception):
    """Not what a server may answer."""


class TooLongError(Exception):
    """A file larger than what is taken here."""


class _At(Enum):
    PREAMBLE = 1
    HEADERS = 2
    BODY = 3
    DELIMITER = 4
    END = 5


@dataclass(frozen=True, slots=True)
class Described:
    """What the second part's headers say of the file; with a location the file is there and not here."""

    content_type: str
    disposition: str
    location: str | None = None


class MultipartReader:
    """One body. ``sink`` gets the file; ``feed`` raises BadMultipartError or TooLongError, and is not called again."""

    __slots__ = ("_at", "_boundary", "_held", "_max_bytes", "_metadata", "_parts", "_sink", "_size")

    def __init__(self, sink: Callable[[bytes], None], max_bytes: int) -> None:
        self._sink = sink
        self._max_bytes = max_bytes
        self._at = _At.PREAMBLE
        self._held = b""
        self._boundary = b""
        self._parts: list[Mapping[str, str]] = []
        self._metadata = b""
        self._size = 0  # of what is being read: the preamble, then each part's body

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        self._held += data
        while self._held and self._step():
            pass

    def close(self, content_type: str) -> Described:
        """The end of the body; ``content_type`` is that of the whole answer."""
        essence, parameters = parse_parameters(content_type)
        if essence != "multipart/mixed":
            raise BadMultipartError("The answer is not multipart/mixed")
        # COMPAT(ruma from August 2026 on ends with a delimiter like those between parts. What was cut off by the network is
        # known by its length, or its chunks)
        is_ended = self._at is _At.DELIMITER and len(self._parts) == 2 and not self._held
        if self._at is not _At.END and not is_ended:
            raise BadMultipartError("The answer breaks off")
        # Which boundary it is was read from the body, as the headers are only known now.
        if parameters.get("boundary", "").encode("utf-8", "replace") != self._boundary:
            raise BadMultipartError("The parts have another boundary than the answer says")
        self._check_metadata()
        fields = self._parts[1]
        length = fields.get("content-length", "")
        if length.isascii() and length.isdigit() and length != str(self._size):
            raise BadMultipartError("The file has another length than its part says")
        return Described(
            fields.get("content-type", ""), fields.get("content-disposition", ""), fields.get("location")
        )

    def _check_metadata(self) -> None:
        try:
            known = msgspec.json.decode(self._metadata)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadMultipartError("The first part is not JSON") from None
        if not isinstance(known, dict):
            raise BadMultipartError("The first part is not a JSON object")

    # --- from one place to the next; False: more bytes are needed ---

    def _step(self) -> bool:
        if self._at is _At.BODY:
            return self._read_body()
        if self._at is _At.HEADERS:
            return self._read_headers()
        if self._at is _At.DELIMITER:
            return self._read_delimiter()
        if self._at is _At.PREAMBLE:
            return self._read_preamble()
        # What follows the last delimiter means nothing.
        self._held = b""
        return False

    def _read_preamble(self) -> bool:
        """Line by line, to the first one that is a boundary."""
        line, found, rest = self._held.partition(b"\r\n")
        if self._size + len(line) > MAX_PREAMBLE:
            raise BadMultipartError("There is no boundary")
        if not found:
            return False
        self._size += len(line) + 2
        self._held = rest
        if line.startswith(b"--"):
            self._boundary = line[2:].rstrip(b" \t")
            if _BOUNDARY.fullmatch(self._boundary) is None:
                raise BadMultipartError("The boundary is none")
            self._at = _At.HEADERS
        return True

    def _read_headers(self) -> bool:
        # A part without headers begins with the empty line at once.
        if self._held.startswith(b"\r\n"):
            block, start = b"", 0
        else:
            end = self._held.find(b"\r\n\r\n", 0, MAX_HEADERS)
            if end < 0:
                if len(self._held) >= MAX_HEADERS:
                    raise BadMultipartError("The headers of a part are too long")
                return False
            block, start = self._held[:end], end + 2
        self._parts.append(_fields(block))
        # The line break stays: when the delimiter follows at once it is the delimiter's.
        self._held = self._held[start:]
        self._at = _At.BODY
        self._size = -2
        return True

    def _read_body(self) -> bool:
        delimiter = b"\r\n--" + self._boundary
        end = self._held.find(delimiter)
        if end >= 0:
            self._pass_on(self._held[:end], is_last=True)
            self._held = self._held[end + len(delimiter) :]
            self._at = _At.DELIMITER
            return True
        # The end of what is here may be the beginning of the delimiter.
        keep = len(delimiter) - 1
        if len(self._held) > keep:
            self._pass_on(self._held[:-keep], is_last=False)
            self._held = self._held[-keep:]
        return False

    def _pass_on(self, data: bytes, *, is_last: bool) -> None:
        """A piece of a part's body. The first two bytes of the body are the line break before it."""
        skipped = min(len(data), max(0, -self._size))
        self._size += len(data)
        if is_last and self._size < 0:
            # The line break was the delimiter's.
            self._size = 0
        data = data[skipped:]
        if len(self._parts) == 1:
            self._metadata += data
            if len(self._metadata) > MAX_METADATA:
                raise BadMultipartError("The first part is too long")
        elif "location" in self._parts[1]:
            if self._size > MAX_METADATA:
                raise BadMultipartError("The second part has a place and a file")
        else:
            if self._size > self._max_bytes:
                raise TooLongError
            if data:
                self._sink(data)

    def _read_delimiter(self) -> bool:
        if len(self._held) < 2:
            return False
        if self._held.startswith(b"--"):
            if len(self._parts) != 2:
                raise BadMultipartError("There are not two parts")
            self._at = _At.END
            return True
        line, found, rest = self._held.partition(b"\r\n")
        if not found and len(line) < MAX_PREAMBLE:
            return False
        if line.strip(b" \t") or not found:
            raise BadMultipartError("A line begins with the boundary and is none")
        if len(self._parts) == 2:
            raise BadMultipartError("There are more than two parts")
        self._held = rest
        self._at = _At.HEADERS
        return True


def _fields(block: bytes) -> Mapping[str, str]:
    """The headers of a part; of a repeated one the first."""
    fields: dict[str, str] = {}
    # Folded lines are one.
    text = re.sub(r"\r\n[ \t]+", " ", block.decode("utf-8", "replace"))
    for line in text.split("\r\n") if text else ():
        name, colon, value = line.partition(":")
        if not colon or _FIELD_NAME.fullmatch(name) is None:
            raise BadMultipartError("A part has a header that is none")
        fields.setdefault(name.lower(), value.strip(" \t"))
    if fields.get("content-transfer-encoding", "").lower() not in _PLAIN_ENCODINGS:
        raise BadMultipartError("A part is encoded")
    return fields


def parse_parameters(value: str) -> tuple[str, dict[str, str]]:
    """``essence; name=value; name="value"``: the essence in lower case, and the parameters, the first of each name."""
    essence, _, _ = value.partition(";")
    parameters: dict[str, str] = {}
    for found in _PARAMETER.finditer(value):
        text = re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3].strip(" \t")
        parameters.setdefault(found[1].lower(), text)
    return essence.strip(" \t").lower(), parameters


def file_name_of(disposition: str, most_bytes: int) -> str | None:
    """The file name in a Content-Disposition, of the form that can say more; None: there is none that can be kept."""
    # spec: RFC 6266, section 4.3
    _, parameters = parse_parameters(disposition)
    name = parameters.get("filename")
    charset, _, rest = parameters.get("filename*", "").partition("'")
    _, quote, encoded = rest.partition("'")
    if quote and charset.lower() == "utf-8":
        with suppress(UnicodeDecodeError):
            name = unquote_to_bytes(encoded).decode("utf-8")
    if not name or "\0" in name or len(name.encode("utf-8", "replace")) > most_bytes:
        return None
    return name


def head_of(boundary: str, content_type: str, disposition: bytes) -> bytes:
    """What stands before the file."""
    mark = boundary.encode("ascii")
    return (
        b"--" + mark + b"\r\nContent-Type: application/json\r\n\r\n{}\r\n--" + mark + b"\r\nContent-Type: "
        + content_type.encode("ascii") + b"\r\nContent-Disposition: " + disposition + b"\r\n\r\n"
    )  # fmt: skip


def tail_of(boundary: str) -> bytes:
    """What stands after it."""
    return b"\r\n--" + boundary.encode("ascii") + b"--\r\n"
