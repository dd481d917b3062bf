"""Certificates in 97 bytes: a member record carries what differs between two nodes' certificates, and all else is fixed.

Who knows a member's record so knows its whole certificate, and can demand exactly that one from the first byte of the
first connection. Form: X.509, self-signed, ECDSA on P-256 with SHA-256 (gRPC's TLS takes no Ed25519), no other name than
``TARGET_NAME``, no date on which it ends. The 97 bytes are the public key (33, compressed) and the signature (r and s, 32 each).
"""

import base64
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lowcomm_node.errors import RefusalReason, RemoteProtocolError

__all__ = ["CERTIFICATE_BYTES", "TARGET_NAME", "certificate_der", "certificate_pem", "contents", "signature_of"]

CERTIFICATE_BYTES = 97
TARGET_NAME = "node.lowcomm"
"""The name in every certificate: nodes are told apart by their keys."""

_KEY_BYTES, _HALF_BYTES = 33, 32
_HEAD = bytes.fromhex(
    "3081d6a003020102020101300a06082a8648ce3d04030230123110300e06035504030c076c6f77636f6d6d3020170d3230303130313030303030"
    "305a180f39393939313233313233353935395a30123110300e06035504030c076c6f77636f6d6d3059301306072a8648ce3d020106082a8648ce"
    "3d030107034200"
)
"""Serial number 1, issuer and subject CN=lowcomm, 2020 to 9999, up to the public key."""
_TAIL = bytes.fromhex("a31b301930170603551d110410300e820c6e6f64652e6c6f77636f6d6d")
"""Subject alternative name: ``TARGET_NAME``."""
_ALGORITHM = bytes.fromhex("300a06082a8648ce3d040302")
_MAX_CACHED = 4096


def contents(public_key: EllipticCurvePublicKey) -> bytes:
    """What the owner of the key has to sign (a TBSCertificate)."""
    return _HEAD + public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) + _TAIL


def signature_of(public_key: EllipticCurvePublicKey, signature: bytes) -> bytes:
    """The 97 bytes, from the key and its signature (DER) of ``contents``."""
    r, s = decode_dss_signature(signature)
    point = public_key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return point + r.to_bytes(_HALF_BYTES) + s.to_bytes(_HALF_BYTES)


@lru_cache(_MAX_CACHED)
def certificate_der(short: bytes) -> bytes:
    """The whole certificate.

    Raises:
        RemoteProtocolError: MALFORMED when it is none, or not signed by its own key.
    """
    try:
        if len(short) != CERTIFICATE_BYTES:
            raise ValueError(f"{len(short)} bytes")
        key = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), short[:_KEY_BYTES])
        halves = short[_KEY_BYTES : _KEY_BYTES + _HALF_BYTES], short[_KEY_BYTES + _HALF_BYTES :]
        signature = encode_dss_signature(*map(int.from_bytes, halves))
        signed = contents(key)
        key.verify(signature, signed, ECDSA(SHA256()))
    except (ValueError, InvalidSignature) as error:
        raise RemoteProtocolError(RefusalReason.MALFORMED, f"a certificate that is none: {error}") from error
    body = signed + _ALGORITHM + b"\x03" + bytes([len(signature) + 1, 0]) + signature
    return b"\x30\x82" + len(body).to_bytes(2) + body


def certificate_pem(der: bytes) -> bytes:
    """As gRPC wants it."""
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""]).encode()
