"""The node's identity: one Ed25519 key, kept in libp2p's own file format so that p2pd reads the same file."""

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lowcomm_node.errors import ConfigError
from lowcomm_node.units import PeerId
from lowcomm_node.wire import peer_id as peer_ids

__all__ = ["Identity", "load_or_create"]

_KEY_BYTES = 32
_FILE_PREFIX = b"\x08\x01\x12\x40"
"""libp2p's PrivateKey message: type Ed25519, then 64 bytes, the private and the public key."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is. The key never leaves this object and its file."""

    path: Path
    peer_id: PeerId
    _key: Ed25519PrivateKey = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature of ``data``, 64 bytes."""
        return self._key.sign(data)

    def secret_for(self, purpose: bytes, num_bytes: int) -> bytes:
        """A secret that only this identity can compute, another one for each purpose; the key cannot be told from it."""
        return HKDF(SHA256(), num_bytes, salt=None, info=purpose).derive(self._key.private_bytes_raw())

    @staticmethod
    def verify(peer_id: PeerId, signature: bytes, data: bytes) -> bool:
        """Did the holder of ``peer_id`` sign ``data``?"""
        return peer_ids.verify(peer_ids.peer_id_to_bytes(peer_id), signature, data)


def load_or_create(path: Path) -> Identity:
    """Read the identity, or make one when there is no file yet.

    Raises:
        ConfigError: others can read the file, or it is not an Ed25519 key, or it cannot be read or written.
    """
    try:
        if not path.exists():
            _create(path)
        mode = path.stat().st_mode
        data = path.read_bytes() if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise ConfigError(f"{path}: cannot keep the node's identity there: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"{path} is the node's secret key and other users can read it (mode {stat.S_IMODE(mode):03o}); "
            f'run "chmod 600 {path}" if you trust them, else delete it to become a new node'
        )
    private, public = data[len(_FILE_PREFIX) :][:_KEY_BYTES], data[len(_FILE_PREFIX) + _KEY_BYTES :]
    if not data.startswith(_FILE_PREFIX) or len(private) != _KEY_BYTES:
        raise ConfigError(f"{path} is not an Ed25519 identity of libp2p; move it away to become a new node")
    key = Ed25519PrivateKey.from_private_bytes(private)
    if key.public_key().public_bytes_raw() != public:
        raise ConfigError(f"{path} is damaged: its two halves do not belong together; restore it or move it away")
    return Identity(path, peer_ids.peer_id_of_key(public), key)


def _create(path: Path) -> None:
    """Write a new key under a temporary name first: a crash leaves no half a key, a second starter's key is kept."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    data = _FILE_PREFIX + key.private_bytes_raw() + key.public_key().public_bytes_raw()
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(new)
        except FileExistsError:
            return
    finally:
        new.unlink()
