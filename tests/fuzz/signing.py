"""Signed JSON and signing key files: verification is total, and tampering is found."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from federation.hashes import decode_base64
from federation.ids import ServerName
from federation.signing import SigningKey, sign_json, verify_json
from tests.fuzz.harness import JSON, TEXT, main, mutated, only_malformed

KEY = SigningKey.from_seed(ServerName("example.org"), "a", b"\x07" * 32)
SIGNED = sign_json({"one": 1, "two": {"three": [4, "five"]}}, KEY)
STRATEGY = st.one_of(mutated(SIGNED), st.dictionaries(TEXT, JSON, max_size=4), TEXT)


def target(value: Any) -> None:
    if isinstance(value, str):
        only_malformed(lambda: decode_base64(value))
        only_malformed(lambda: SigningKey.from_text(KEY.server_name, "ed25519 a " + value))
        only_malformed(lambda: SigningKey.from_text(KEY.server_name, value))
        return
    good = verify_json(value, KEY.server_name, {KEY.key_id: KEY.public_key})
    if good:
        plain = {key: item for key, item in value.items() if key not in ("signatures", "unsigned")}
        # 1 and True compare equal, but canonical JSON tells them apart: so must the test.
        assert repr(sorted(plain.items())) == repr([("one", 1), ("two", {"three": [4, "five"]})])


if __name__ == "__main__":
    main(STRATEGY, target)
