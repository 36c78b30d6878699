"""TLS for the connections that we open: one context each for those that are checked and those that are not.

Whether the certificate is for the right name is looked at when the handshake is done (`connection.py`), before a byte
of a request is written: so that one context, with the system's authorities read once, serves every name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from federation.flows.discovery import is_address


class ClientTls:
    """Makes connection creators. Raises ValueError for a CA file that cannot be used."""

    def __init__(self, ca_file: Path | None = None) -> None:
        self._checked = _context()
        self._checked.set_default_verify_paths()
        if ca_file is not None:
            try:
                self._checked.load_verify_locations(str(ca_file))
            except SSL.Error:
                raise ValueError(f"no usable certificate authority in {ca_file}") from None
        self._checked.set_verify(SSL.VERIFY_PEER)
        self._unchecked = _context()

    def creator(self, name: str, *, verify: bool) -> Any:
        """What `wrapClientTLS` takes. A name is told to the other side (SNI), an address is not."""
        return _Creator(self._checked if verify else self._unchecked, None if is_address(name) else name)


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    return context


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    def __init__(self, context: SSL.Context, server_name: str | None) -> None:
        self._context = context
        self._server_name = server_name

    def clientConnectionForTLS(self, _: object) -> SSL.Connection:  # noqa: N802 (Twisted's name)
        connection = SSL.Connection(self._context, None)
        if self._server_name is not None:
            connection.set_tlsext_host_name(self._server_name.encode("ascii"))
        return connection
