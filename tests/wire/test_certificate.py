"""Certificates in 97 bytes."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, derive_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.wire.certificate import (
    CERTIFICATE_BYTES,
    TARGET_NAME,
    certificate_der,
    certificate_pem,
    contents,
    signature_of,
)


def key_of(number: int) -> EllipticCurvePrivateKey:
    return derive_private_key(number, SECP256R1())


def short_of(key: EllipticCurvePrivateKey) -> bytes:
    public = key.public_key()
    return signature_of(public, key.sign(contents(public), ECDSA(SHA256())))


def test_it_is_the_certificate_that_a_library_would_make() -> None:
    """Names, dates, key and extension are what x509 writes for them, byte for byte up to the signature."""
    key = key_of(7)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lowcomm")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(TARGET_NAME)]), critical=False)
        .sign(key, SHA256())
    )

    assert contents(key.public_key()) == made.tbs_certificate_bytes
    assert certificate_der(signature_of(key.public_key(), made.signature)) == made.public_bytes(Encoding.DER)


def test_a_library_reads_it() -> None:
    """As PEM too, and the signature is good."""
    short = short_of(key_of(8))

    read = x509.load_pem_x509_certificate(certificate_pem(certificate_der(short)))

    read.verify_directly_issued_by(read)
    assert len(short) == CERTIFICATE_BYTES
    assert read.public_bytes(Encoding.DER) == certificate_der(short)


@given(st.integers(0, CERTIFICATE_BYTES - 1), st.integers(1, 255))
def test_no_byte_can_be_changed(place: int, change: int) -> None:
    """A key that somebody has not signed with himself is no certificate."""
    forged = bytearray(short_of(key_of(9)))
    forged[place] ^= change

    assert reason_of(bytes(forged)) is RefusalReason.MALFORMED


@given(st.binary(max_size=120))
def test_any_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    """Neither lengths nor points off the curve break the reader."""
    assert reason_of(data) is RefusalReason.MALFORMED


def reason_of(data: bytes) -> RefusalReason:
    with pytest.raises(RemoteProtocolError) as caught:
        certificate_der(data)
    return caught.value.reason
