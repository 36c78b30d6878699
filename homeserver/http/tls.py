"""TLS for listeners: certificate chain and key from PEM files, modern versions only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from OpenSSL.SSL import WantReadError
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from homeserver.http.direct import write_now

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_RECORDS_BYTES = 2**15
# One record of a long answer: several of them are sent together.
_LONG_BYTES = 2**14


class _DirectTls(TLSMemoryBIOProtocol):
    """TLS whose answers are sent at once: what Twisted gives to a listener collects the writes of a turn of the reactor,
    and leaves it to the next one to send them."""

    def _flushSendBIO(self) -> None:  # noqa: N802 (Twisted's name, and its only place that writes)
        try:
            records = self._tlsConnection.bio_read(_RECORDS_BYTES)
        except WantReadError:
            return  # there is nothing to send
        connection: Any = self.transport
        if len(records) < _LONG_BYTES:
            write_now(connection, records)
        else:
            connection.write(records)


@implementer(IOpenSSLServerConnectionCreator)
class RenewableTls:
    """The two files of a listener, for :func:`secured`. Raises ValueError or OSError for unusable ones."""

    def __init__(self, certificate_file: Path, private_key_file: Path) -> None:
        self._files = (certificate_file, private_key_file)
        self.renew()

    def renew(self) -> None:
        """New connections get what is in the files now; where that raises, what they had."""
        self._options = server_context(*self._files)

    def serverConnectionForTLS(self, protocol: Any) -> Any:  # noqa: N802 (Twisted's name)
        return self._options.serverConnectionForTLS(protocol)


class _DirectTlsFactory(TLSMemoryBIOFactory):
    protocol = _DirectTls


def secured(context: Any, server: Factory) -> Factory:
    """A server behind TLS, for `listenTCP`. ``context`` is a :class:`RenewableTls`, or of :func:`server_context`."""
    # Twisted's interfaces tell a type checker nothing.
    inner: Any = server
    outer: Any = _DirectTlsFactory(context, False, inner)
    return outer  # type: ignore[no-any-return]


def server_context(certificate_file: Path, private_key_file: Path) -> Any:
    """The context factory for :func:`secured`. Raises ValueError with a clear sentence for unusable files."""
    blocks = _CERTIFICATE.findall(certificate_file.read_bytes())
    if not blocks:
        raise ValueError(f"no certificate in {certificate_file}")
    try:
        chain = [crypto.load_certificate(crypto.FILETYPE_PEM, block) for block in blocks]
    except crypto.Error:
        raise ValueError(f"unreadable certificate in {certificate_file}") from None
    try:
        # Without a passphrase OpenSSL asks whoever sits at the terminal for one.
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, private_key_file.read_bytes(), b"")
    except (crypto.Error, ValueError, TypeError):
        raise ValueError(f"no usable private key in {private_key_file}, or it has a passphrase") from None
    options = CertificateOptions(
        privateKey=key,
        certificate=chain[0],
        extraCertChain=chain[1:],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        # Without a list Twisted 26.10 breaks off when a client offers one, as browsers do.
        acceptableProtocols=[b"http/1.1"],
    )
    try:
        # Made now, and kept in there: else nobody looks at the two files together before somebody connects.
        options.getContext()
    except SSL.Error as error:
        reason = error.args[0][-1][2] if error.args and error.args[0] else "OpenSSL does not take them"
        raise ValueError(
            f"{certificate_file} and {private_key_file} cannot be used together: {reason}"
        ) from None
    return options
