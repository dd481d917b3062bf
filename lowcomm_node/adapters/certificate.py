"""The node's own TLS certificate: it follows from the identity, so there is one secret to keep and nothing to renew."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, derive_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from lowcomm_node.adapters.identity import Identity
from lowcomm_node.wire.certificate import certificate_der, certificate_pem, contents, signature_of

__all__ = ["Certificate"]

_PURPOSE = b"lowcomm/v1/tls"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256."""
_DRAWN_BYTES = 48
"""So many more than the order has that no private key is likelier than another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What the gRPC server shows, and what proves that it may."""

    short: bytes
    """As in the member record."""
    sha256: bytes
    pem: bytes
    key_pem: bytes = field(repr=False)

    @classmethod
    def of(cls, identity: Identity) -> Self:
        """The same in every life of the node: who has an old record of it can still connect."""
        drawn = int.from_bytes(identity.secret_for(_PURPOSE, _DRAWN_BYTES))
        key = derive_private_key(1 + drawn % (_ORDER - 1), SECP256R1())
        public = key.public_key()
        short = signature_of(public, key.sign(contents(public), ECDSA(SHA256(), deterministic_signing=True)))
        der = certificate_der(short)
        return cls(
            short=short,
            sha256=sha256(der).digest(),
            pem=certificate_pem(der),
            key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )
