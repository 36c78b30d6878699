"""A certificate authority for one test run, and the addresses at which servers federate under it.

Server names are loopback addresses with a port (`127.0.0.10:18448`): they need neither DNS nor a hosts file nor root,
and a certificate is checked all the same, by its IP address.
spec: server-server-api#resolving-server-names
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.ports import take_port

_LIFE = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Wire:
    """Where a server federates: its address, and the files of TLS there.

    Others call `port`; where a `Gate` stands there, the server itself listens on another, the `inner_port`.
    """

    address: str
    port: int
    inner_port: int
    certificate_file: Path
    private_key_file: Path
    ca_file: Path

    @property
    def server_name(self) -> str:
        return f"{self.address}:{self.port}"


class Authority:
    """Issues certificates whose only root is `ca_file`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of a test run")])
        self.ca_file = folder / "ca.pem"
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, address: str, *, gated: bool = True) -> Wire:
        """A free port at a loopback address, with a certificate for it; and one for behind a gate."""
        certificate_file, key_file = self.certify(address)
        outer = take_port(address)
        inner = take_port(address) if gated else outer
        return Wire(address, outer, inner, certificate_file, key_file, self.ca_file)

    def certify(self, *names: str) -> tuple[Path, Path]:
        """Files of a certificate and its key, for names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = (
            _builder(subject, self._name, key.public_key())
            .add_extension(x509.SubjectAlternativeName(list(map(_general_name, names))), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        certificate_file, key_file = self._folder / f"{names[0]}.pem", self._folder / f"{names[0]}.key"
        certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate_file, key_file


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFE)
    )
