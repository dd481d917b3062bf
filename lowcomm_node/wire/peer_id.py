"""libp2p peer ids of Ed25519 keys: the id contains the public key, so a signature needs nothing else to be checked.

Form: the "identity" multihash (code 0, length 36) of the key's protobuf (type Ed25519, 32 bytes), written in base58.
"""

from functools import lru_cache

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.units import PeerId

__all__ = ["SIGNATURE_BYTES", "peer_id_from_bytes", "peer_id_of_key", "peer_id_to_bytes", "verify"]

SIGNATURE_BYTES = 64

_KEY_BYTES = 32
_PREFIX = b"\x00\x24\x08\x01\x12\x20"
_ID_BYTES = len(_PREFIX) + _KEY_BYTES
_MAX_CACHED = 1024
"""Base58 is a division of long numbers for each digit; a node reads and writes the same few ids all day."""


def peer_id_of_key(public_key: bytes) -> PeerId:
    """The peer id of a raw Ed25519 public key (32 bytes)."""
    return PeerId(base58.b58encode(_PREFIX + public_key).decode())


@lru_cache(_MAX_CACHED)
def peer_id_from_bytes(data: bytes) -> PeerId:
    """Read a peer id as it stands in records and offers.

    Raises:
        RemoteProtocolError: MALFORMED when it is not the id of an Ed25519 key.
    """
    if len(data) != _ID_BYTES or not data.startswith(_PREFIX):
        raise RemoteProtocolError(RefusalReason.MALFORMED, f"a peer id of {len(data)} bytes that is no Ed25519 key")
    return PeerId(base58.b58encode(data).decode())


@lru_cache(_MAX_CACHED)
def peer_id_to_bytes(peer_id: PeerId) -> bytes:
    """The 38 bytes of one of our own peer ids."""
    return base58.b58decode(peer_id)


def verify(peer_id: bytes, signature: bytes, data: bytes) -> bool:
    """Did the holder of ``peer_id`` (38 bytes) sign ``data``?"""
    if len(peer_id) != _ID_BYTES or not peer_id.startswith(_PREFIX) or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(peer_id[len(_PREFIX) :]).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True
