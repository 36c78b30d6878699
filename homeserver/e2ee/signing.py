"""Cross-signing: a user's three keys, and the signatures that make the web of trust.

# spec: client-server-api#cross-signing
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from federation.errors import Malformed
from federation.hashes import decode_base64
from federation.ids import KeyId, parse_user_id
from federation.signing import verify_json
from homeserver.db.threads import Database
from homeserver.db.tx import Tx, WriteTx
from homeserver.e2ee.assembly import decode
from homeserver.e2ee.shapes import check_signing_key, ed25519_key_of_device, invalid_signature, is_signatures
from homeserver.e2ee.types import Requester
from homeserver.http.errors import bad_json, forbidden, missing_param, too_large
from homeserver.store.cross_signing import (
    MASTER,
    SELF_SIGNING,
    USAGES,
    USER_SIGNING,
    KeyIdInUseError,
    Signature,
    SigningKey,
    load_signing_keys,
    put_signatures,
    put_signing_keys,
)
from homeserver.store.device_keys import load_device_keys
from homeserver.store.ids import Interner
from homeserver.store.work import Worker

# LIMIT(each signature is checked: a person signs some devices, or one other person, at a time)
MAX_SIGNATURES = 1_000
_MAX_SIGNATURE = 255

Confirm = Callable[[], Awaitable[object]]
"""Makes sure that it is the owner of the account who asks; raises otherwise."""
Failures = dict[str, dict[str, dict[str, Any]]]


class CrossSigning:
    """See the module."""

    def __init__(self, database: Database, worker: Worker, interner: Interner) -> None:
        self._database = database
        self._worker = worker
        self._interner = interner

    async def upload(self, requester: Requester, body: Mapping[str, Any], confirm: Confirm) -> None:
        """Store a user's own keys; ``confirm`` is asked where there are keys already and these are others."""
        wanted = [
            check_signing_key(body[f"{usage}_key"], requester.user_id, usage, requester.user_nid)
            for usage in USAGES
            if body.get(f"{usage}_key") is not None
        ]
        if not wanted:
            raise missing_param("There is no key in the request")
        if not await self._put(requester, wanted, confirmed=False):
            await confirm()
            await self._put(requester, wanted, confirmed=True)

    async def _put(self, requester: Requester, wanted: Sequence[SigningKey], *, confirmed: bool) -> bool:
        known = await self._known(requester)
        _check_signed(requester.user_id, wanted, known)
        try:
            return await self._worker.work(
                _put_keys, requester.user_nid, wanted, known.get(MASTER), confirmed=confirmed
            )
        except KeyIdInUseError:
            raise forbidden("One of the user's devices has this key's name") from None
        except _MasterMovedError:
            raise invalid_signature("The master key has been replaced meanwhile") from None

    async def _known(self, requester: Requester) -> dict[str, SigningKey]:
        found = await self._database.read(load_signing_keys, [requester.user_nid])
        return found.get(requester.user_nid, {})

    async def sign(self, requester: Requester, body: Mapping[str, Any]) -> Failures:
        """Add signatures; what is wrong with those that were not."""
        wanted, failures = _read_signed(body)
        nids = await self._interner.find_users({*wanted, requester.user_id})
        names = {nid: user_id for user_id, nid in nids.items()}
        asked = {nids[user_id]: by_key for user_id, by_key in wanted.items() if user_id in nids}
        for user_id in wanted:
            if user_id not in nids:
                failures[user_id] = {key: _failure("M_NOT_FOUND", "No such user") for key in wanted[user_id]}
        work = _Signing(requester.user_id, requester.user_nid, names)
        await self._database.read(work.check, asked)
        for user_id, by_key in work.failures.items():
            failures.setdefault(user_id, {}).update(by_key)
        if work.good:
            await self._worker.work(put_signatures, requester.user_nid, work.good, work.own)
        return failures


class _MasterMovedError(Exception):
    """Somebody else has replaced the key that the checked ones were signed with."""


def _put_keys(
    tx: WriteTx, user_nid: int, keys: Sequence[SigningKey], master: SigningKey | None, *, confirmed: bool
) -> bool:
    """False: they are not stored, for the owner is to be asked first. That is decided on what is stored now: who read it
    earlier could put a key back that was replaced meanwhile."""
    known = load_signing_keys(tx, [user_nid]).get(user_nid, {})
    # With it the signatures were checked.
    if known.get(MASTER) != master:
        raise _MasterMovedError
    # spec: client-server-api#post_matrixclientv3keysdevice_signingupload (when authentication is needed)
    if not confirmed and MASTER in known and any(_differs(one, known.get(one.usage)) for one in keys):
        return False
    put_signing_keys(tx, user_nid, keys)
    return True


def _differs(one: SigningKey, known: SigningKey | None) -> bool:
    return known is None or not one.says_the_same(known)


def _check_signed(user_id: str, wanted: Sequence[SigningKey], known: Mapping[str, SigningKey]) -> None:
    """Every key but the master key is signed by it: by the new one, or by the one that there is."""
    by_usage = {one.usage: one for one in wanted}
    master = by_usage.get(MASTER) or known.get(MASTER)
    if master is None:
        raise missing_param("No master signing key is available")
    trusted = {KeyId(f"ed25519:{master.public_key}"): decode_base64(master.public_key)}
    for usage in (SELF_SIGNING, USER_SIGNING):
        one = by_usage.get(usage)
        if one is not None and not verify_json(decode(one.key), user_id, trusted):
            raise invalid_signature(f"{usage}_key is not signed by the master key")


def _read_signed(body: Mapping[str, Any]) -> tuple[dict[str, dict[str, dict[str, Any]]], Failures]:
    """The signed objects by user and key."""
    wanted: dict[str, dict[str, dict[str, Any]]] = {}
    failures: Failures = {}
    count = 0
    for user_id, by_key in body.items():
        if not isinstance(by_key, dict):
            raise bad_json("Signed objects must be in objects by user and key")
        count += len(by_key)
        if count > MAX_SIGNATURES:
            raise too_large(f"More than {MAX_SIGNATURES} signed objects")
        try:
            parse_user_id(user_id)
        except Malformed:
            failures[user_id] = {key: _failure("M_INVALID_PARAM", "Not a user ID") for key in by_key}
            continue
        for key, value in by_key.items():
            if isinstance(value, dict) and is_signatures(value.get("signatures")):
                wanted.setdefault(user_id, {})[key] = value
            else:
                problem = _failure("M_INVALID_PARAM", "Not a signed object")
                failures.setdefault(user_id, {})[key] = problem
    return wanted, failures


def _failure(errcode: str, error: str) -> dict[str, Any]:
    return {"errcode": errcode, "error": error}


@dataclass(slots=True)
class _Target:
    """A key that may be signed, and by which keys of the requester."""

    key: dict[str, Any]
    is_device: bool
    signers: Mapping[KeyId, bytes]


@dataclass(slots=True)
class _Signing:
    """One request on its way; ``check`` runs in a database thread, for the signatures take their time."""

    user_id: str
    user_nid: int
    names: Mapping[int, str]
    good: list[Signature] = field(default_factory=list)
    own: dict[str, bool] = field(
        default_factory=dict
    )  # what is signed of the requester: whether it is a device
    failures: Failures = field(default_factory=dict)

    def check(self, tx: Tx, asked: Mapping[int, Mapping[str, dict[str, Any]]]) -> None:
        """Find out which signatures are good."""
        targets = self._targets(tx, list(asked))
        for target_nid, by_key in asked.items():
            for name, signed in by_key.items():
                problem = self._add(target_nid, name, signed, targets.get((target_nid, name)))
                if problem is not None:
                    self.failures.setdefault(self.names[target_nid], {})[name] = problem

    def _add(
        self, target_nid: int, name: str, signed: dict[str, Any], target: _Target | None
    ) -> dict[str, Any] | None:
        if target is None:
            return _failure("M_NOT_FOUND", "There is no such key to be signed")
        if _bare(signed) != _bare(target.key):
            return _failure("M_INVALID_SIGNATURE", "This is not the key that was uploaded")
        signatures = signed["signatures"].get(self.user_id, {})
        # The device's own signature may be among them; only those that are allowed here are looked at.
        relevant = {key_id: text for key_id, text in signatures.items() if KeyId(key_id) in target.signers}
        if not relevant or not verify_json(signed, self.user_id, target.signers):
            return _failure("M_INVALID_SIGNATURE", "Invalid signature")
        for key_id, text in relevant.items():
            if len(text) > _MAX_SIGNATURE:
                return _failure("M_INVALID_SIGNATURE", "Invalid signature")
            self.good.append(Signature(target_nid, name, self.user_nid, key_id, text))
        if target_nid == self.user_nid:
            self.own[name] = target.is_device
        return None

    def _targets(self, tx: Tx, user_nids: Sequence[int]) -> dict[tuple[int, str], _Target]:
        """What the requester may sign: own devices and master key, and other users' master keys.

        # spec: client-server-api#key-and-signature-security
        """
        signing = load_signing_keys(tx, {*user_nids, self.user_nid})
        mine = signing.get(self.user_nid, {})
        own_devices = load_device_keys(tx, [self.user_nid])
        by_device: dict[KeyId, bytes] = {}
        found: dict[tuple[int, str], _Target] = {}
        for device in own_devices:
            keys = decode(device.json)
            public_key = ed25519_key_of_device(keys, device.device_id)
            if public_key is not None:
                by_device[KeyId(f"ed25519:{device.device_id}")] = public_key
            found[self.user_nid, device.device_id] = _Target(keys, True, _signer(mine.get(SELF_SIGNING)))
        for user_nid, by_usage in signing.items():
            master = by_usage.get(MASTER)
            if master is not None:
                signers = by_device if user_nid == self.user_nid else _signer(mine.get(USER_SIGNING))
                found[user_nid, master.public_key] = _Target(decode(master.key), False, signers)
        return found


def _signer(key: SigningKey | None) -> dict[KeyId, bytes]:
    return {} if key is None else {KeyId(f"ed25519:{key.public_key}"): decode_base64(key.public_key)}


def _bare(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: field for name, field in value.items() if name not in ("signatures", "unsigned")}
