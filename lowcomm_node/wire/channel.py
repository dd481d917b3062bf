"""Proofs of who is at the end of a connection, checked as far as bytes and signatures can tell."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from google.protobuf.message import DecodeError

from lowcomm_node.core.versions import Versions
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.units import PeerId, RunId
from lowcomm_node.wire.gen.lowcomm.v1 import channel_pb2, records_pb2
from lowcomm_node.wire.peer_id import peer_id_from_bytes, peer_id_to_bytes, verify

__all__ = [
    "CHANNEL_SERVICE",
    "MAX_PROOF_BYTES",
    "NONCE_BYTES",
    "NO_CERTIFICATE",
    "PROVE",
    "TOKEN_BYTES",
    "TOKEN_KEY",
    "Claim",
    "read_proof",
    "read_welcome",
    "write_proof",
    "write_welcome",
]

CHANNEL_SERVICE = "lowcomm.v1.Channel"
PROVE = "Prove"
TOKEN_KEY = "lowcomm-token-bin"  # noqa: S105 - the name of a metadata entry
TOKEN_BYTES = 32
NONCE_BYTES = 32
NO_CERTIFICATE = bytes(32)
"""Instead of the certificate's SHA-256 on a connection without TLS."""
MAX_PROOF_BYTES = 2048

_PROOF, _WELCOME = b"lowcomm/v1/channel/proof", b"lowcomm/v1/channel/welcome"
_Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the dialling end says of a connection."""

    versions: Versions
    """What it speaks."""
    run_id: RunId
    sender: PeerId
    receiver: PeerId
    certificate_sha256: bytes
    """Of the certificate at the answering end."""
    nonce: bytes
    issued_at: float
    """Its clock, Unix seconds."""

    def signed(self) -> bytes:
        """What a signature is over: fields of fixed length, so that no two claims read the same."""
        numbers = struct.pack(">IId", self.versions.oldest, self.versions.newest, self.issued_at)
        peers = peer_id_to_bytes(self.sender) + peer_id_to_bytes(self.receiver)
        return b"".join((numbers, bytes.fromhex(self.run_id), peers, self.nonce, self.certificate_sha256))


def write_proof(claim: Claim, sign: _Sign, admission: bytes = b"") -> bytes:
    """A serialised Proof. ``admission``: a serialised Admission, where the run asks for one."""
    return channel_pb2.Proof(
        min_protocol_version=claim.versions.oldest,
        max_protocol_version=claim.versions.newest,
        run_id=bytes.fromhex(claim.run_id),
        sender=peer_id_to_bytes(claim.sender),
        receiver=peer_id_to_bytes(claim.receiver),
        nonce=claim.nonce,
        issued_at=claim.issued_at,
        admission=records_pb2.Admission.FromString(admission) if admission else None,
        signature=sign(_PROOF + claim.signed()),
    ).SerializeToString()


def read_proof(
    data: bytes, *, own: PeerId, run_id: RunId, protocol_version: int, certificate_sha256: bytes
) -> tuple[Claim, bytes]:
    """The claim, and the serialised Admission that came with it. Versions and run come first, so that they are what is named.

    Args:
        data: what came.
        own: whom it must be meant for.
        run_id: the run this node is in.
        protocol_version: what that run speaks.
        certificate_sha256: of this node's certificate.

    Raises:
        RemoteProtocolError: OVERSIZED, MALFORMED, WRONG_PROTOCOL, WRONG_RUN, WRONG_RECEIVER, CHECKSUM for a signature that
            is not the sender's, or is over another certificate.
    """
    if len(data) > MAX_PROOF_BYTES:
        raise RemoteProtocolError(RefusalReason.OVERSIZED, f"a proof of {len(data)} bytes")
    try:
        proof = channel_pb2.Proof.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError(RefusalReason.MALFORMED, "a proof that does not parse") from error
    spoken = Versions(oldest=proof.min_protocol_version, newest=proof.max_protocol_version)
    if protocol_version not in spoken:
        raise RemoteProtocolError(RefusalReason.WRONG_PROTOCOL, spoken.advice(protocol_version, "the other end"))
    if proof.run_id.hex() != run_id:
        raise RemoteProtocolError(
            RefusalReason.WRONG_RUN,
            f"this node is in run {run_id}, the other end in {proof.run_id[:32].hex() or 'none'}",
        )
    claim = Claim(
        versions=spoken,
        run_id=run_id,
        sender=peer_id_from_bytes(proof.sender),
        receiver=peer_id_from_bytes(proof.receiver),
        certificate_sha256=certificate_sha256,
        nonce=proof.nonce,
        issued_at=proof.issued_at,
    )
    if claim.receiver != own:
        raise RemoteProtocolError(RefusalReason.WRONG_RECEIVER, f"this is {own}, the other end means {claim.receiver}")
    if len(claim.nonce) != NONCE_BYTES or not isfinite(claim.issued_at):
        raise RemoteProtocolError(RefusalReason.MALFORMED, f"a nonce of {len(claim.nonce)} bytes")
    if not verify(proof.sender, proof.signature, _PROOF + claim.signed()):
        raise RemoteProtocolError(
            RefusalReason.CHECKSUM, f"{claim.sender} has not signed this, or for another certificate than this node's"
        )
    return claim, proof.admission.SerializeToString() if proof.HasField("admission") else b""


def write_welcome(claim: Claim, token: bytes, protocol_version: int, sign: _Sign) -> bytes:
    """A serialised Welcome."""
    return channel_pb2.Welcome(
        protocol_version=protocol_version, token=token, signature=sign(_WELCOME + claim.signed() + token)
    ).SerializeToString()


def read_welcome(data: bytes, claim: Claim) -> bytes:
    """The token.

    Raises:
        RemoteProtocolError: OVERSIZED, MALFORMED, CHECKSUM when the peer that was meant has not signed it.
    """
    if len(data) > MAX_PROOF_BYTES:
        raise RemoteProtocolError(RefusalReason.OVERSIZED, f"a welcome of {len(data)} bytes")
    try:
        welcome = channel_pb2.Welcome.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError(RefusalReason.MALFORMED, "a welcome that does not parse") from error
    if len(welcome.token) != TOKEN_BYTES:
        raise RemoteProtocolError(RefusalReason.MALFORMED, f"a token of {len(welcome.token)} bytes")
    if not verify(peer_id_to_bytes(claim.receiver), welcome.signature, _WELCOME + claim.signed() + welcome.token):
        raise RemoteProtocolError(RefusalReason.CHECKSUM, f"{claim.receiver} has not signed this")
    return welcome.token
