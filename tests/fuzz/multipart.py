"""Media of other servers on the wire: however a body is cut into pieces, the reader says the same of it, within bounds."""

from __future__ import annotations

from hypothesis import strategies as st

from homeserver.media.multipart import BadMultipartError, Described, MultipartReader, TooLongError
from tests.fuzz.harness import main

MOST = 40
_PIECES = [
    *(
        b"--b0",
        b"\r\n--b0",
        b"--",
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b"\n",
        b"b0",
        b"-",
        b" ",
        b"\t",
        b"{}",
        b"[]",
        b"x",
    ),
    *(
        b"Content-Type: application/json",
        b"Content-Type: text/plain",
        b"Content-Length: 3",
        b"Location: https://x",
    ),
    *(
        b"Content-Transfer-Encoding: base64",
        b"Content-Disposition: inline; filename=a",
        b"\0",
        b"\xff",
        b"x" * 50,
    ),
]
_GOOD = b"--b0\r\n\r\n{}\r\n--b0\r\nContent-Type: text/plain\r\n\r\nabc\r\n--b0--\r\n"
_SOUP = st.lists(st.sampled_from(_PIECES), max_size=20).map(b"".join)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    start = draw(st.integers(0, len(_GOOD)))
    end = draw(st.integers(start, min(len(_GOOD), start + 12)))
    return _GOOD[:start] + draw(_SOUP | st.sampled_from(_PIECES)) + _GOOD[end:]


STRATEGY = st.tuples(
    st.one_of(_damaged(), _SOUP, st.binary(max_size=80)), st.lists(st.integers(1, 12), max_size=8)
)


def read(pieces: list[bytes]) -> tuple[Described, bytes] | str:
    """What came of it: the file, or that it was refused."""
    taken: list[bytes] = []
    reader = MultipartReader(taken.append, MOST)
    try:
        for piece in pieces:
            reader.feed(piece)
        return reader.close("multipart/mixed; boundary=b0"), b"".join(taken)
    except TooLongError:
        return "too long"
    except BadMultipartError:
        return "refused"


def target(value: tuple[bytes, list[int]]) -> None:
    body, sizes = value
    whole = read([body])
    bytewise = read([body[at : at + 1] for at in range(len(body))])
    pieces: list[bytes] = []
    at = 0
    for size in sizes:
        pieces.append(body[at : at + size])
        at += size
    cut = read([*pieces, body[at:]])
    # A body that is both too long and malformed may be refused for either.
    if isinstance(whole, str):
        assert isinstance(bytewise, str) and isinstance(cut, str), (whole, bytewise, cut)
    else:
        assert whole == bytewise == cut, (whole, bytewise, cut)
        assert len(whole[1]) <= MOST


if __name__ == "__main__":
    main(STRATEGY, target)
