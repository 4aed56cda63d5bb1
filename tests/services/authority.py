"""A certificate authority of the tests' own: certificates for brokers, Redis and clients, good ones and bad ones."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY: Final = datetime.timedelta(days=1)
_TOLERANCE: Final = datetime.timedelta(minutes=5)


class Certificate(NamedTuple):
    """Files of one certificate. `both` holds the key and the certificate, as Kafka reads them."""

    cert: Path
    key: Path
    both: Path


class Authority:
    """Signs what it is asked to; `cafile` is what others must trust for it."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        """Make the authority's own key and certificate."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        builder = _builder(self._name, self._name, self._key.public_key(), -_DAY, 30 * _DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._cert = builder.sign(self._key, hashes.SHA256())
        self.cafile = folder / f"{name}.pem"
        self.cafile.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        since: datetime.timedelta = -_TOLERANCE,
        until: datetime.timedelta = _DAY,
        address: str = "127.0.0.1",
    ) -> Certificate:
        """Sign a certificate for an address, valid from `since` to `until` as seen from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = _builder(_named(name), self._name, key.public_key(), since, until)
        cert = builder.add_extension(alternatives, critical=False).sign(self._key, hashes.SHA256())
        found = Certificate(*(self._folder / f"{name}.{end}" for end in ("crt", "key", "both")))
        found.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        found.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        found.both.write_bytes(found.key.read_bytes() + found.cert.read_bytes())
        return found


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    since: datetime.timedelta,
    until: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since)
        .not_valid_after(now + until)
    )
