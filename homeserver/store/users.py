"""Accounts of local users. spec: client-server-api#legacy-account-registration"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import BindParameter, and_, bindparam, case, delete, func, null, select, update

from homeserver.db.schema.accounts import account_data, accounts, filters, profiles, receipts
from homeserver.db.schema.rooms import user_ids
from homeserver.db.schema.sync import thread_subscriptions
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.delayed import drop_delayed_of
from homeserver.store.devices import Login, drop_all_devices, log_in
from homeserver.store.erasures import Erasure, put_erasure
from homeserver.store.key_backups import drop_user_backups
from homeserver.store.members import Member, load_user_rooms
from homeserver.store.oauth_sessions import drop_user_grants
from homeserver.store.openid import drop_openid_tokens
from homeserver.store.profiles import put_field
from homeserver.store.pushers import drop_user_pushers
from homeserver.store.threepids import EMAIL, Threepid, drop_all_threepids, put_threepid
from homeserver.store.tokens import NewTokens, use_registration_token
from homeserver.store.validations import ProofUsedUpError, Validation, use_up

_A = accounts.c
_USER: BindParameter[int] = bindparam("the_user_nid")
_COLUMNS = (
    user_ids.c.user_id,
    _A.user_nid,
    _A.password_hash,
    _A.created_ts_ms,
    _A.admin,
    _A.guest,
    _A.deactivated,
    _A.erased,
    _A.user_type,
    _A.suspended,
    _A.locked,
)
_JOINED = accounts.join(user_ids, user_ids.c.nid == _A.user_nid)

_INSERT = rows(
    accounts, "user_nid", "password_hash", "created_ts_ms", "admin", "guest", "appservice_id", "user_type"
)
_EXISTS = statement(select(1).where(_A.user_nid == _USER))
_BY_NIDS = statement(select(*_COLUMNS).select_from(_JOINED).where(any_of(_A.user_nid, "nids")))
_BY_NAMES = statement(select(*_COLUMNS).select_from(_JOINED).where(any_of(user_ids.c.user_id, "names")))
_PAGE = statement(
    select(*_COLUMNS)
    .select_from(_JOINED)
    .where(user_ids.c.user_id > bindparam("after"))
    .order_by(user_ids.c.user_id)
    .limit(bindparam("most"))
)
# Locked, so that another process that changes it waits, and then finds what was let in.
_UNCHANGED = statement(
    select(_A.password_hash).where(and_(_A.user_nid == _USER, _A.deactivated == 0)).with_for_update()
)
_SET_PASSWORD = statement(
    update(accounts)
    .where(and_(_A.user_nid == _USER, _A.deactivated == 0, _A.guest == 0))
    .values(password_hash=bindparam("new_hash"))
    .returning(_A.user_nid)
)
_SET_ADMIN = statement(
    update(accounts).where(_A.user_nid == _USER).values(admin=bindparam("flag")).returning(_A.user_nid)
)
_STANDING = statement(
    update(accounts)
    .where(and_(_A.user_nid == _USER, _A.deactivated == 0))
    .values(
        suspended=func.coalesce(bindparam("is_suspended"), _A.suspended),
        locked=func.coalesce(bindparam("is_locked"), _A.locked),
    )
    .returning(_A.user_nid)
)
_SET_TYPE = statement(
    update(accounts)
    .where(_A.user_nid == _USER)
    .values(user_type=bindparam("new_type"))
    .returning(_A.user_nid)
)
_SET_RATE = statement(
    update(accounts)
    .where(_A.user_nid == _USER)
    .values(rate_per_second=bindparam("new_rate"), rate_burst=bindparam("new_burst"))
    .returning(_A.user_nid)
)
_RATE = statement(select(_A.rate_per_second, _A.rate_burst).where(_A.user_nid == _USER))
_DEACTIVATE = statement(
    update(accounts)
    .where(_A.user_nid == _USER)
    .values(
        deactivated=1,
        password_hash=null(),
        admin=0,
        # What was asked for once is not taken back.
        erased=case((_A.erased == 1, 1), else_=bindparam("erase_flag")),
    )
)
_UPGRADE = statement(
    update(accounts)
    .where(and_(_A.user_nid == _USER, _A.guest == 1, _A.deactivated == 0))
    .values(guest=0, password_hash=bindparam("new_hash"))
    .returning(_A.user_nid)
)
_GUESTS = statement(select(_A.user_nid).where(and_(_A.guest == 1, _A.deactivated == 0)).order_by(_A.user_nid))
_GUESTS_AMONG = statement(
    select(user_ids.c.user_id)
    .select_from(_JOINED)
    .where(and_(_A.guest == 1, _A.deactivated == 0, any_of(_A.user_nid, "nids")))
    .order_by(user_ids.c.user_id)
)
_ALL = statement(select(_A.user_nid))
_NIDS_OF = statement(select(_A.user_nid).where(any_of(_A.user_nid, "nids")))
_DEACTIVATED = statement(select(_A.user_nid).where(_A.deactivated == 1).order_by(_A.user_nid))
_ERASE_PROFILE = statement(delete(profiles).where(profiles.c.user_nid == _USER))
# What somebody kept here, and what they had read: no event, and of no use to anybody else.
_ERASED_TABLES = (account_data, filters, receipts, thread_subscriptions)
_ERASE = tuple(statement(delete(table).where(table.c.user_nid == _USER)) for table in _ERASED_TABLES)


class Account(NamedTuple):
    """One local account."""

    user_id: str
    user_nid: int
    password_hash: str | None
    created_ts_ms: int
    admin: int
    guest: int
    deactivated: int
    erased: int
    user_type: str | None
    suspended: int = 0
    locked: int = 0


@dataclass(frozen=True, slots=True)
class AccountChanged:
    """Payload of ``Kind.ACCOUNT``."""

    user_nid: int
    what: str
    """``created``, ``deactivated``, ``admin``, ``standing``, ``rate`` or ``upgraded``."""
    members: Sequence[Member] = ()
    """Of a created account: what rooms had said of this user before (somebody may be invited before they come)."""
    guest: bool = False
    """Whether the account may be a guest's."""
    erasures: Sequence[Erasure] = ()
    """Of an account that ended: from when on newcomers see its events redacted."""


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account to be made. Its user id is bound to ``user_nid`` already."""

    user_nid: int
    password_hash: str | None
    now_ms: int
    admin: bool = False
    user_type: str | None = None
    display_name: str | None = None
    registration_token: str | None = None
    appservice_id: str | None = None
    guest: bool = False
    proof: Validation | None = None
    """Of an address that the account is to have."""


class UserInUseError(Exception):
    """The user id is taken."""


class ProofOverError(Exception):
    """The account has ended, or has another password, since somebody proved that it is theirs."""


def create_account(
    tx: WriteTx, account: NewAccount, login: Login | None = None, tokens: NewTokens | None = None
) -> None:
    """Make an account and, with it or not at all, its first device and its profile.

    Raises UserInUseError, RegistrationTokenRefusedError, ProofUsedUpError or ThreepidInUseError. The primary key
    decides between two processes that ask at the same time: the other one gets IntegrityViolation.
    """
    if tx.value(_EXISTS, the_user_nid=account.user_nid) is not None:
        raise UserInUseError
    if account.registration_token is not None:
        use_registration_token(tx, account.registration_token, account.now_ms)
    made = (account.user_nid, account.password_hash, account.now_ms, int(account.admin), int(account.guest))
    tx.insert(_INSERT, [(*made, account.appservice_id, account.user_type)])
    members: list[Member] = []
    # With the position, so that it also sees what the events of this very transaction say.
    tx.claim(
        Kind.ACCOUNT,
        -account.user_nid,
        write=lambda late, _: members.extend(load_user_rooms(late, account.user_nid)),
        payload=AccountChanged(account.user_nid, "created", members, account.guest),
    )
    _give_address(tx, account)
    if account.display_name:
        put_field(tx, account.user_nid, "displayname", account.display_name)
    if login is not None and tokens is not None:
        log_in(tx, login, tokens)


def _give_address(tx: WriteTx, account: NewAccount) -> None:
    proof = account.proof
    if proof is not None:
        if not use_up(tx, proof.sid):
            raise ProofUsedUpError
        threepid = Threepid(EMAIL, proof.address, proof.validated_ts_ms or account.now_ms, account.now_ms)
        put_threepid(tx, account.user_nid, threepid)


def upgrade_guest(
    tx: WriteTx, account: NewAccount, login: Login | None = None, tokens: NewTokens | None = None
) -> None:
    """Make a guest's account a whole one; its rooms and devices stay. Raises as ``create_account`` does.

    UserInUseError: it is a guest's no longer.
    """
    # spec: client-server-api#guest-access
    if tx.value(_UPGRADE, the_user_nid=account.user_nid, new_hash=account.password_hash) is None:
        raise UserInUseError
    if account.registration_token is not None:
        use_registration_token(tx, account.registration_token, account.now_ms)
    _give_address(tx, account)
    tx.claim(Kind.ACCOUNT, -account.user_nid, payload=AccountChanged(account.user_nid, "upgraded"))
    if login is not None and tokens is not None:
        log_in(tx, login, tokens)


def check_unchanged(tx: Tx, account: Account) -> None:
    """Refuse what somebody does by what they have proven of an account, where that is over. Raises ProofOverError.

    To check a password takes time, and nothing is locked meanwhile. What ends every login just then ends those that are
    stored, and would miss the one that is about to be. Nor is the old password to take the new one away.
    """
    row = tx.one(_UNCHANGED, the_user_nid=account.user_nid)
    if row is None or row[0] != account.password_hash:
        raise ProofOverError


def load_guests(tx: Tx) -> list[int]:
    """Every guest of this server (at the start)."""
    return tx.column(_GUESTS)


def load_guests_among(tx: Tx, user_nids: Sequence[int]) -> list[str]:
    """The user ids of those who are guests."""
    return tx.column(_GUESTS_AMONG, nids=list(user_nids)) if user_nids else []


def load_accounts(tx: Tx, user_ids_: Sequence[str]) -> dict[str, Account]:
    """Those of the users who have an account here, by user id."""
    return {row[0]: Account(*row) for row in tx.all(_BY_NAMES, names=user_ids_)}


def load_account(tx: Tx, user_nid: int) -> Account | None:
    """One account by its number."""
    row = tx.one(_BY_NIDS, nids=[user_nid])
    return None if row is None else Account(*row)


def list_accounts(tx: Tx, after: str = "", most: int = 100) -> list[Account]:
    """A page of all accounts in the order of their ids."""
    return [Account(*row) for row in tx.all(_PAGE, after=after, most=most)]


def load_account_nids(tx: Tx) -> list[int]:
    """Every account of this server (at the start)."""
    return tx.column(_ALL)


def load_account_nids_of(tx: Tx, user_nids: Collection[int]) -> list[int]:
    """Those of the users who have an account here."""
    return tx.column(_NIDS_OF, nids=list(user_nids)) if user_nids else []


def load_deactivated(tx: Tx) -> list[int]:
    """Every account that was ended."""
    return [row[0] for row in tx.all(_DEACTIVATED)]


def set_password(
    tx: WriteTx,
    user_nid: int,
    password_hash: str,
    *,
    log_out: bool,
    keep_device_nid: int = 0,
    proof: Validation | None = None,
    proven: Account | None = None,
) -> bool:
    """Change a password and, if wanted, end every login but one. Whether there is such an active account of no guest.

    ``proof``: what it is changed on, which is good for this once. Raises ProofUsedUpError where it was redeemed already.
    ``proven``: the account as it was when somebody proved that it is theirs. Raises ProofOverError where that is over.
    """
    if proven is not None:
        check_unchanged(tx, proven)
    if tx.value(_SET_PASSWORD, the_user_nid=user_nid, new_hash=password_hash) is None:
        return False
    if proof is not None and not use_up(tx, proof.sid):
        raise ProofUsedUpError
    if log_out:
        drop_all_devices(tx, user_nid, keep_device_nid)
    else:
        drop_user_grants(tx, user_nid)  # whoever uses a browser with the old one
    return True


def set_admin(tx: WriteTx, user_nid: int, admin: bool) -> bool:
    """Whether there is such an account."""
    if tx.value(_SET_ADMIN, the_user_nid=user_nid, flag=int(admin)) is None:
        return False
    tx.claim(Kind.ACCOUNT, -user_nid, payload=AccountChanged(user_nid, "admin"))
    return True


def set_standing(tx: WriteTx, user_nid: int, *, suspended: bool | None, locked: bool | None) -> bool:
    """Suspend or lock an account, or no longer; None changes nothing. Whether there is such an active account."""
    flags = {"is_suspended": suspended, "is_locked": locked}
    values = {name: None if flag is None else int(flag) for name, flag in flags.items()}
    if tx.value(_STANDING, the_user_nid=user_nid, **values) is None:
        return False
    tx.claim(Kind.ACCOUNT, -user_nid, payload=AccountChanged(user_nid, "standing"))
    return True


def set_user_type(tx: WriteTx, user_nid: int, user_type: str | None) -> bool:
    """What kind of user it is; None: a person. Whether there is such an account."""
    return tx.value(_SET_TYPE, the_user_nid=user_nid, new_type=user_type) is not None


class Rate(NamedTuple):
    """What a user may do; ``per_second`` 0: as much as they like."""

    per_second: int
    burst: int


def load_rate(tx: Tx, user_nid: int) -> Rate | None:
    """What administrators allow a user instead of the configured rates; None: nothing of the kind."""
    row = tx.one(_RATE, the_user_nid=user_nid)
    return None if row is None or row[0] is None else Rate(row[0], row[1] or 0)


def set_rate(tx: WriteTx, user_nid: int, rate: Rate | None) -> bool:
    """Let a user do as much as this, or (None) what the configuration says. Whether there is such an account."""
    per_second, burst = (None, None) if rate is None else rate
    if tx.value(_SET_RATE, the_user_nid=user_nid, new_rate=per_second, new_burst=burst) is None:
        return False
    tx.claim(Kind.ACCOUNT, -user_nid, payload=AccountChanged(user_nid, "rate"))
    return True


def deactivate_account(
    tx: WriteTx, user_nid: int, *, erase: bool, proven: Account | None = None
) -> list[tuple[str, str]]:
    """End every way to log in, for good. ``erase``: newcomers see what the user wrote in its redacted form.

    Leaving the rooms is for a follower. What addresses the account had: they may have to be unbound elsewhere.
    ``proven``: as for ``set_password``.
    """
    # spec: client-server-api#account-deactivation
    if proven is not None:
        check_unchanged(tx, proven)
    # First of all, so that nobody is let in meanwhile: see ``check_unchanged``.
    tx.run(_DEACTIVATE, the_user_nid=user_nid, erase_flag=int(erase))
    drop_all_devices(tx, user_nid)
    drop_openid_tokens(tx, user_nid)
    addresses = drop_all_threepids(tx, user_nid)
    # Nobody can ask for them any more, and what was written is not to lie about with the keys to it.
    drop_user_backups(tx, user_nid)
    tx.run(_ERASE_PROFILE, the_user_nid=user_nid)
    drop_user_pushers(tx, user_nid)
    drop_delayed_of(tx, user_nid)
    if erase:
        for one in _ERASE:
            tx.run(one, the_user_nid=user_nid)
    erasures: list[Erasure] = []
    tx.claim(
        Kind.ACCOUNT,
        -user_nid,
        write=lambda late, pos: erasures.extend(put_erasure(late, user_nid, pos)) if erase else None,
        payload=AccountChanged(user_nid, "deactivated", erasures=erasures),
    )
    return addresses
