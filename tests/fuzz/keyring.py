"""Key responses: only what the server signed itself is believed."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from federation import keyring
from federation.ids import KeyId, ServerName
from federation.signing import SigningKey
from tests.fuzz.harness import JSON, main, mutated, only_malformed

SERVER = ServerName("example.org")
KEY = SigningKey.from_seed(SERVER, "a", b"\x07" * 32)
NOTARY = SigningKey.from_seed(ServerName("notary.example"), "n", b"\x08" * 32)
_OLD = keyring.VerifyKey(KeyId("ed25519:old"), b"\x09" * 32, 1000, expired=True)
RESPONSE = keyring.notarise(keyring.build_key_response([KEY], [_OLD], 10**12), NOTARY)
STRATEGY = st.one_of(JSON, mutated(RESPONSE), mutated({"server_keys": [RESPONSE]}))
NOW_MS = 5 * 10**11


def target(value: Any) -> None:
    keys = only_malformed(lambda: keyring.parse_key_response(value, SERVER, NOW_MS))
    if keys is not None:
        assert keys.keys[KEY.key_id].public_key == KEY.public_key
        assert keys.valid_until_ts_ms <= NOW_MS + keyring.MAX_VALIDITY_MS
        assert keyring.merge(keys, keys) == keys
    notary_keys = {NOTARY.key_id: NOTARY.public_key}
    for found in (
        only_malformed(lambda: keyring.parse_notary_response(value, NOTARY.server_name, notary_keys, NOW_MS))
        or ()
    ):
        assert found.server_name == SERVER


if __name__ == "__main__":
    main(STRATEGY, target)
