"""Mail that the server sends: what a mailer is, and a letter as the bytes that a mail server takes.

MUSTs: 1. whatever a subject or a text holds (names that strangers chose), it stays within its header or its part; 2. an
address is one address, so that nobody makes the server write to whom they like beside it.
spec: RFC 5322
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final, Protocol

MAX_ADDRESS: Final = 254
MAX_SUBJECT: Final = 200
# LIMIT(addresses beyond ASCII need SMTPUTF8, which Twisted's client does not speak; domains have their IDNA form)
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS: Final = re.compile(rf"(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
_NAME: Final = re.compile(r"[\w .'-]*")
_LEADING_DOT: Final = re.compile(rb"^\.", re.MULTILINE)
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class MailNotSentError(Exception):
    """The mail did not go out; `permanent`: it would not another time either."""

    def __init__(self, problem: str, *, permanent: bool) -> None:
        super().__init__(problem)
        self.permanent = permanent


class Mailer(Protocol):
    """Sends mail."""

    async def send(self, to: str, subject: str, text: str, html: str) -> None:
        """Send one letter, as plain text and as HTML. Returns when a mail server has taken it.

        Raises MailNotSentError. It may take a minute, when attempts fail: a handler had better not wait for it.
        """


@dataclass(frozen=True, slots=True)
class Letter:
    """What is handed to a mail server: the envelope, and the message with lines that end in a bare newline."""

    sender: str
    to: str
    data: bytes


def is_mail_address(text: str) -> bool:
    """Whether it is one plain address, without a name, quotes or comments."""
    return len(text) <= MAX_ADDRESS and _ADDRESS.fullmatch(text) is not None


def bare_address(text: str) -> str:
    """The address of `name@example.org` or `Name <name@example.org>`. Raises ValueError where there is none."""
    name, bracket, rest = text.partition("<")
    address = rest.removesuffix(">") if bracket else text
    # A name with a comma would need quotes, and without them be an address of its own.
    if not is_mail_address(address) or (bracket and (rest[-1:] != ">" or not _NAME.fullmatch(name))):
        raise ValueError("must be an address like chat@example.org or Example <chat@example.org>")
    return address


def compose(sender: str, to: str, subject: str, text: str, html: str, *, now_s: float, unique: str) -> Letter:
    """One letter. `unique` (ASCII letters and digits) names it. Raises MailNotSentError for an impossible address."""
    if not is_mail_address(to):
        raise MailNotSentError("not an address that can be written to", permanent=True)
    envelope = bare_address(sender)
    message = EmailMessage(policy=SMTP.clone(linesep="\n"))
    message["From"] = sender
    message["To"] = to
    message["Subject"] = _CONTROLS.sub(" ", subject)[:MAX_SUBJECT]
    message["Date"] = format_datetime(datetime.fromtimestamp(now_s, UTC))
    message["Message-ID"] = f"<{unique}@{envelope.rpartition('@')[2]}>"
    # Out-of-office replies to a machine help nobody. spec: RFC 3834
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(_body(text), cte="quoted-printable")
    message.add_alternative(_body(html), subtype="html", cte="quoted-printable")
    # Its own would be drawn from a generator that nobody can seed.
    message.set_boundary(f"=_{unique}")
    # Twisted's client overlooks a dot that begins a line and a chunk: a mail server would take the mail for ended.
    return Letter(envelope, to, _LEADING_DOT.sub(b"=2E", message.as_bytes()))


def _body(text: str) -> str:
    """Text that UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode()
