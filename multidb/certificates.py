"""Certificates of the servers of a deployment: issued by an authority of the project's own, or given and checked.

Pure but for the randomness of a new key: times come in as arguments, files are read and written elsewhere. Keys are on
the curve P-256 in PKCS #8, which Postgres, Valkey, Redis, Qdrant, Neo4j and PgBouncer all read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from multidb.secrets import Secret

__all__ = ["RENEWED", "SUCCEEDED", "Identity", "issue", "names_of", "new_authority", "problem", "serves", "valid_until"]

RENEWED: Final = timedelta(days=30)  # with less than that left, a certificate is made anew
SUCCEEDED: Final = timedelta(
    days=365
)  # with less than that left, an authority gets a successor, to be trusted beside it
_AUTHORITY: Final = timedelta(days=3650)
_SERVER: Final = timedelta(days=825)
_SKEW: Final = timedelta(hours=1)  # clocks of other machines may be a little behind
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate (with its chain, if it has one) and its private key, both in PEM."""

    certificate: str
    key: Secret

    def bundle(self) -> Secret:
        """Both as one text: what is kept together cannot come apart."""
        return Secret(self.key.reveal() + self.certificate)

    @classmethod
    def parse(cls, bundle: Secret) -> Self:
        """The identity that `bundle` has put into one text."""
        key, begin, rest = bundle.reveal().partition(_BEGIN)
        return cls(begin + rest, Secret(key))


def names_of(server: str) -> tuple[str, ...]:
    """What a server is called by its clients: apps in its network, and multidb on this machine."""
    return (server, "localhost", "127.0.0.1")


def new_authority(project: str, now: datetime) -> Identity:
    """An authority of ten years that can do nothing but sign the certificates of servers."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"multidb {project}")])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(name, name, key.public_key(), now, now + _AUTHORITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return _signed(builder, key, key)


def issue(authority: Identity, server: str, now: datetime) -> Identity:
    """A certificate for the server so called, for 825 days or as long as its authority lasts."""
    signer = x509.load_pem_x509_certificate(authority.certificate.encode())
    signing_key = _key(authority.key)
    assert isinstance(signing_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, server[:64])])
    until = min(now + _SERVER, signer.not_valid_after_utc)
    builder = (
        _builder(subject, signer.subject, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names_of(server)]), critical=False)
    )
    return _signed(builder, key, signing_key)


def serves(identity: Identity, authority: str, names: Sequence[str], now: datetime) -> bool:
    """Whether the identity will do for a server of these names for 30 days to come."""
    return problem(identity, authority, names, now + RENEWED) is None


def problem(identity: Identity, authority: str, names: Sequence[str], now: datetime) -> str | None:
    """Why clients that trust `authority` (PEM, one or several) would refuse a server of these names; None when they
    would not."""
    try:
        certificate, *chain = x509.load_pem_x509_certificates(identity.certificate.encode())
    except ValueError:
        return "the certificate is not one in PEM"
    try:
        key = _key(identity.key)
    except (ValueError, TypeError):
        return "the key is not a private key in PEM without a passphrase"
    try:
        trusted = x509.load_pem_x509_certificates(authority.encode())
    except ValueError:
        return "the CA is not a certificate in PEM"
    if _public(key.public_key()) != _public(certificate.public_key()):
        return "the key does not belong to the certificate"
    for link in (certificate, *trusted[:1]):
        if not link.not_valid_before_utc - _SKEW <= now < link.not_valid_after_utc:
            return (
                f"the certificate of {link.subject.rfc4514_string() or 'no name'} is valid from "
                f"{link.not_valid_before_utc:%Y-%m-%d} to {link.not_valid_after_utc:%Y-%m-%d} only"
            )
    if not _leads_to(certificate, chain, trusted):
        return "the certificate was not signed by the CA"
    known = _names(certificate)
    missing = [name for name in dict.fromkeys(names) if _general(name) not in known]
    if missing:
        return f"the certificate does not name {', '.join(missing)}"
    return None


def valid_until(certificate: str) -> datetime:
    """When a certificate (PEM; the first of a chain) ends, in UTC. `ValueError` for what is none."""
    return x509.load_pem_x509_certificates(certificate.encode())[0].not_valid_after_utc


def _leads_to(
    certificate: x509.Certificate, chain: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate]
) -> bool:
    """Whether each certificate was signed by the next of its chain, and the last by one that is trusted."""
    for signer in chain:
        if any(_signed_by(certificate, authority) for authority in trusted):
            return True
        if not _signed_by(certificate, signer):
            return False
        certificate = signer
    return any(_signed_by(certificate, authority) for authority in trusted)


def _signed_by(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signing_key: ec.EllipticCurvePrivateKey
) -> Identity:
    certificate = builder.sign(signing_key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity(certificate.public_bytes(serialization.Encoding.PEM).decode(), Secret(private.decode()))


def _key(pem: Secret) -> PrivateKeyTypes:
    return serialization.load_pem_private_key(pem.reveal().encode(), password=None)


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return set()


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
