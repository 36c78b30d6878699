"""The keys of other servers. spec: server-server-api#retrieving-server-keys"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import bindparam, select

from federation.ids import KeyId, ServerName
from federation.keyring import ServerKeys, VerifyKey
from homeserver.db.schema.peers import server_key_answers, server_keys
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx

_A, _K = server_key_answers.c, server_keys.c
_KEY_COLUMNS = (_K.server_name, _K.key_id, _K.public_key, _K.valid_until_ts_ms, _K.expired)
_ANSWERS = statement(
    select(_A.server_name, _A.fetched_ts_ms, _A.valid_until_ts_ms).where(any_of(_A.server_name, "names"))
)
_KEYS = statement(select(*_KEY_COLUMNS).where(any_of(_K.server_name, "names")))
_ANSWER = statement(select(_A.answer).where(_A.server_name == bindparam("server_name")))
_PUT_ANSWER = rows(
    server_key_answers,
    "server_name",
    "fetched_ts_ms",
    "valid_until_ts_ms",
    "answer",
    keys=("server_name",),
    update=("fetched_ts_ms", "valid_until_ts_ms", "answer"),
)
_PUT_TIMES = rows(
    server_key_answers,
    "server_name",
    "fetched_ts_ms",
    "valid_until_ts_ms",
    keys=("server_name",),
    update=("fetched_ts_ms", "valid_until_ts_ms"),
)
_PUT_KEYS = rows(
    server_keys,
    *(column.name for column in _KEY_COLUMNS),
    keys=("server_name", "key_id"),
    update=("public_key", "valid_until_ts_ms", "expired"),
)


def load_server_keys(tx: Tx, names: Sequence[ServerName]) -> dict[ServerName, ServerKeys]:
    """What is known of some servers."""
    keys: defaultdict[ServerName, dict[KeyId, VerifyKey]] = defaultdict(dict)
    for name, key_id, public_key, valid_until_ts_ms, expired in tx.all(_KEYS, names=list(names)):
        keys[name][key_id] = VerifyKey(key_id, bytes(public_key), valid_until_ts_ms, bool(expired))
    return {
        name: ServerKeys(name, keys[name], fetched_ts_ms, valid_until_ts_ms)
        for name, fetched_ts_ms, valid_until_ts_ms in tx.all(_ANSWERS, names=list(names))
    }


def load_key_answer(tx: Tx, name: ServerName) -> bytes | None:
    """What a server last told us about its keys: the signed JSON."""
    answer = tx.value(_ANSWER, server_name=name)
    return None if answer is None else bytes(answer)


def put_server_keys(tx: WriteTx, found: Sequence[tuple[ServerKeys, bytes | None]]) -> None:
    """Note what is known of servers now (merged with what was), and what they told us themselves."""
    # The last word on a server counts where it comes twice: one statement cannot write a row twice.
    latest = {keys.server_name: (keys, answer) for keys, answer in found}
    tx.insert(
        _PUT_ANSWER,
        [
            (name, keys.fetched_ts_ms, keys.valid_until_ts_ms, answer)
            for name, (keys, answer) in latest.items()
            if answer is not None
        ],
    )
    tx.insert(
        _PUT_TIMES,
        [
            (name, keys.fetched_ts_ms, keys.valid_until_ts_ms)
            for name, (keys, answer) in latest.items()
            if answer is None
        ],
    )
    tx.insert(
        _PUT_KEYS,
        [
            (name, key.key_id, key.public_key, key.valid_until_ts_ms, int(key.expired))
            for name, (keys, _) in latest.items()
            for key in keys.keys.values()
        ],
    )
