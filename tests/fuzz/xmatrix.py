"""Authorization headers: parsing is total, and no forged header verifies."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from federation import xmatrix
from federation.errors import Malformed
from federation.ids import KeyId, ServerName
from tests.fuzz.harness import main, only_malformed

_PARTS = st.sampled_from(
    [
        "origin=",
        '"a.b"',
        "a.b:80",
        ",",
        " ",
        "\t",
        "destination=",
        "key=",
        '"ed25519:1"',
        "sig=",
        '"c2ln"',
        '\\"',
        "\\",
        '"',
        "=",
        "é",
    ]
)
STRATEGY = st.one_of(
    st.text(max_size=80),
    st.lists(_PARTS, max_size=20).map(lambda parts: "X-Matrix " + "".join(parts)),
)


def target(value: Any) -> None:
    header = only_malformed(lambda: xmatrix.parse(value))
    if header is None:
        return
    try:
        xmatrix.verify(
            header,
            server_name=ServerName("a.b"),
            method="GET",
            uri="/",
            has_content=False,
            keys={KeyId("ed25519:1"): b"\x01" * 32},
        )
    except Malformed as error:
        assert error.status == 401
    else:
        raise AssertionError("a forged header was accepted")


if __name__ == "__main__":
    main(STRATEGY, target)
