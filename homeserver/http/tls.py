"""TLS for listeners: certificate chain and key from PEM files, modern versions only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from OpenSSL import crypto
from twisted.internet.ssl import CertificateOptions, TLSVersion

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def server_context(certificate_file: Path, private_key_file: Path) -> Any:
    """The context factory for `listenSSL`. Raises ValueError with a clear sentence for unusable files."""
    blocks = _CERTIFICATE.findall(certificate_file.read_bytes())
    if not blocks:
        raise ValueError(f"no certificate in {certificate_file}")
    try:
        chain = [crypto.load_certificate(crypto.FILETYPE_PEM, block) for block in blocks]
    except crypto.Error:
        raise ValueError(f"unreadable certificate in {certificate_file}") from None
    try:
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, private_key_file.read_bytes())
    except (crypto.Error, ValueError, TypeError):
        raise ValueError(f"no usable private key in {private_key_file}") from None
    return CertificateOptions(
        privateKey=key,
        certificate=chain[0],
        extraCertChain=chain[1:],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        # Without a list Twisted 26.10 breaks off when a client offers one, as browsers do.
        acceptableProtocols=[b"http/1.1"],
    )
