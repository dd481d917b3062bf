"""Who may take part in a run: signed by its organiser, checked by everybody, and of no use to anybody else.

An invitation is made out to one peer, or to whoever holds it. The latter contains a key of its own, with which its holder
signs a peer id: what becomes public is that signature, so an invitation cannot be taken from a record and used again.
"""

import base64
import binascii
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import inf

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError

from lowcomm_node.errors import ConfigError, RefusalReason, RemoteProtocolError
from lowcomm_node.settings.manifest import SecurityConfig
from lowcomm_node.units import INVITE_PREFIX, PeerId, RunId
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.peer_id import peer_id_from_bytes, peer_id_to_bytes, verify

__all__ = ["AdmissionRule", "Invitation", "Membership"]

_INVITE, _ADMISSION = b"lowcomm/v1/invite", b"lowcomm/v1/admission"
_KEY_BYTES = 32
_MAX_TEXT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRule:
    """Whom a run lets in."""

    run_id: RunId
    kind: str
    """open, invite, or allow-list."""
    organiser: PeerId
    members: frozenset[PeerId]

    @classmethod
    def of(cls, security: SecurityConfig, run_id: RunId) -> "AdmissionRule":
        """The rule of a run, as its manifest has it."""
        return cls(
            run_id=run_id,
            kind=security.admission,
            organiser=PeerId(security.organiser),
            members=frozenset(map(PeerId, security.members)),
        )

    def stay_s(self, peer: PeerId, admission: bytes, now: float) -> float:
        """Seconds for which a peer may still take part, infinite for ever.

        Args:
            peer: who it is, which is proven otherwise.
            admission: a serialised Admission, or nothing.
            now: Unix seconds.

        Raises:
            RemoteProtocolError: NOT_ADMITTED, with the reason in a sentence.
        """
        if self.kind == "open" or peer == self.organiser or (self.kind == "allow-list" and peer in self.members):
            return inf
        if self.kind == "allow-list":
            raise _not_admitted(f"{peer} is not among those that the run's manifest allows")
        try:
            shown = records_pb2.Admission.FromString(admission)
        except DecodeError as error:
            raise _not_admitted("an admission that does not parse") from error
        if not admission:
            raise _not_admitted(f"{peer} has no invitation of the run's organiser")
        if shown.expires_at <= now:
            raise _not_admitted(f"the invitation of {peer} has ended {now - shown.expires_at:.0f} s ago")
        if not _holds(admission, self.run_id, self.organiser, peer):
            raise _not_admitted(f"the invitation of {peer} is not one of the run's organiser, or is somebody else's")
        return shown.expires_at - now


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What a node needs to take part in a run, and to know who else does."""

    run_id: RunId
    manifest: bytes
    """Canonical."""
    protocol_version: int
    """What the run speaks."""
    rule: AdmissionRule
    admission: bytes
    """This node's own, a serialised Admission; empty where none is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What the organiser gives to people. ``secret`` makes it worth something to whoever holds it."""

    run_id: RunId
    expires_at: int
    """Unix seconds."""
    peer: PeerId | None
    """The only peer it is for."""
    secret: bytes
    """Private Ed25519 key, 32 bytes; empty when it is for one peer."""
    signature: bytes

    @classmethod
    def make(
        cls, run_id: RunId, expires_at: int, sign: Callable[[bytes], bytes], *, peer: PeerId | None, secret: bytes
    ) -> "Invitation":
        """Sign an invitation as the run's organiser: for ``peer``, or, with a ``secret`` of 32 bytes, for anybody."""
        subject = peer_id_to_bytes(peer) if peer is not None else _public(secret)
        signature = sign(_invited(run_id, expires_at, subject))
        return cls(run_id=run_id, expires_at=expires_at, peer=peer, secret=secret, signature=signature)

    def admission_of(self, peer: PeerId) -> bytes:
        """What ``peer`` shows to others, a serialised Admission. Raises ConfigError when the invitation is for another."""
        if self.peer is not None and self.peer != peer:
            raise ConfigError(f"this invitation is for {self.peer}, and this node is {peer}; ask for one of its own")
        admission = records_pb2.Admission(expires_at=self.expires_at, organiser_signature=self.signature)
        if self.peer is None:
            admission.invite_key = _public(self.secret)
            key = Ed25519PrivateKey.from_private_bytes(self.secret)
            admission.invite_signature = key.sign(_admitted(self.run_id, peer_id_to_bytes(peer)))
        return admission.SerializeToString()

    def text(self) -> str:
        """One word to be passed on."""
        data = records_pb2.Invitation(
            run_id=bytes.fromhex(self.run_id),
            expires_at=self.expires_at,
            peer_id=peer_id_to_bytes(self.peer) if self.peer is not None else b"",
            secret=self.secret,
            signature=self.signature,
        ).SerializeToString()
        return INVITE_PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> "Invitation":
        """Read what ``text`` has written. Raises ConfigError."""
        word = text.strip()
        try:
            if not word.startswith(INVITE_PREFIX) or len(word) > _MAX_TEXT:
                raise ValueError(f"it begins with {INVITE_PREFIX}")
            encoded = word.removeprefix(INVITE_PREFIX)
            data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            told = records_pb2.Invitation.FromString(data)
            if len(told.secret) not in (0, _KEY_BYTES) or bool(told.secret) == bool(told.peer_id):
                raise ValueError("it is for one peer, or for anybody")
            peer = peer_id_from_bytes(told.peer_id) if told.peer_id else None
        except (ValueError, binascii.Error, DecodeError, RemoteProtocolError) as error:
            raise ConfigError(f"this is no invitation, or not all of one: {error}") from error
        return cls(
            run_id=RunId(told.run_id.hex()),
            expires_at=told.expires_at,
            peer=peer,
            secret=told.secret,
            signature=told.signature,
        )


def _public(secret: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def _invited(run_id: RunId, expires_at: int, subject: bytes) -> bytes:
    """What the organiser signs. Keys and peer ids have lengths of their own, so neither passes for the other."""
    return _INVITE + bytes.fromhex(run_id) + struct.pack(">Q", expires_at) + subject


def _admitted(run_id: RunId, peer: bytes) -> bytes:
    return _ADMISSION + bytes.fromhex(run_id) + peer


@lru_cache(maxsize=4096)
def _holds(admission: bytes, run_id: RunId, organiser: PeerId, peer: PeerId) -> bool:
    """Are the signatures good? Remembered, because the same few are seen again and again."""
    shown = records_pb2.Admission.FromString(admission)
    subject = shown.invite_key or peer_id_to_bytes(peer)
    if not verify(peer_id_to_bytes(organiser), shown.organiser_signature, _invited(run_id, shown.expires_at, subject)):
        return False
    if not shown.invite_key:
        return True
    try:
        key = Ed25519PublicKey.from_public_bytes(shown.invite_key)
        key.verify(shown.invite_signature, _admitted(run_id, peer_id_to_bytes(peer)))
    except (InvalidSignature, ValueError):
        return False
    return True


def _not_admitted(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(RefusalReason.NOT_ADMITTED, detail)
