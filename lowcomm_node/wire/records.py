"""Member records: signed, small, and believed only while they last. Also the names under which the DHT keeps them."""

import re
from collections.abc import Callable
from functools import lru_cache
from math import isfinite

from google.protobuf.message import DecodeError

from lowcomm_node.core.events import FrozenNote, Member
from lowcomm_node.core.membership import Bucket
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.units import Factor, Reachability, RunId
from lowcomm_node.wire.admission import AdmissionRule
from lowcomm_node.wire.certificate import CERTIFICATE_BYTES
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.limits import MAX_RECORD_BYTES
from lowcomm_node.wire.peer_id import peer_id_from_bytes, peer_id_to_bytes, verify
from lowcomm_node.wire.vitals import Vitals, to_vitals

__all__ = ["MAX_LIFETIME_S", "bucket_key", "is_address", "is_storable", "read_member", "read_vitals", "sign_member"]

MAX_LIFETIME_S = 7200.0
"""Nobody needs to be believed for longer; the settings allow half of it."""

_SIGNED_PREFIX = b"lowcomm/v1/member"
_MAX_PROGRESS_STEPS = 1e12
_MAX_EPOCH = 1_000_000
"""As many as a manifest may have."""
_DIGEST_BYTES = 32
_TO_WIRE: dict[Reachability, records_pb2.Reachability] = {
    Reachability.HOLEPUNCHED: records_pb2.REACHABILITY_HOLEPUNCHED,
    Reachability.RELAYED: records_pb2.REACHABILITY_RELAYED,
    Reachability.OUTBOUND_ONLY: records_pb2.REACHABILITY_OUTBOUND_ONLY,
}
"""A public one is not written: it is what a record with an address means anyway."""
_FROM_WIRE = {number: reach for reach, number in _TO_WIRE.items()}
_PUBLIC = (records_pb2.REACHABILITY_UNSPECIFIED, records_pb2.REACHABILITY_PUBLIC)
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})):([0-9]{1,5})")


def sign_member(
    member: Member,
    *,
    run_id: RunId,
    protocol_version: int,
    sign: Callable[[bytes], bytes],
    admission: bytes = b"",
    vitals: Vitals | None = None,
) -> bytes:
    """A member's signed record, serialised. A public member without an address is one that has left.

    ``admission``: a serialised Admission, where the run asks for one. ``vitals``: what it tells of itself.
    """
    record = records_pb2.MemberRecord(
        run_id=bytes.fromhex(run_id),
        peer_id=peer_id_to_bytes(member.peer),
        grpc_address=member.grpc_address,
        protocol_version=protocol_version,
        progress_steps=member.progress_steps,
        has_state=member.has_state,
        expires_at=member.expires_at,
        reachability=_TO_WIRE.get(member.reachability),
        certificate=member.certificate,
        admission=records_pb2.Admission.FromString(admission) if admission else None,
        vitals=vitals.to_wire() if vitals is not None else None,
        frozen=_frozen_to_wire(member.frozen) if member.frozen is not None else None,
    ).SerializeToString()
    return records_pb2.SignedRecord(record=record, signature=sign(_SIGNED_PREFIX + record)).SerializeToString()


def read_member(
    data: bytes, *, run_id: RunId, protocol_version: int, now: float, rule: AdmissionRule | None = None
) -> Member:
    """Check a signed record and take it apart.

    Args:
        data: the serialised SignedRecord.
        run_id: the run it must be of.
        protocol_version: the version it must speak.
        now: DHT time, Unix seconds.
        rule: whom the run lets in; None where that is not known yet.

    Raises:
        RemoteProtocolError: OVERSIZED, MALFORMED, CHECKSUM (not signed by whom it names), WRONG_RUN, WRONG_PROTOCOL,
            EXPIRED, NOT_ADMITTED, or LEAVING for a member that has withdrawn.
    """
    record = _open(data)
    if record.run_id.hex() != run_id:
        raise RemoteProtocolError(RefusalReason.WRONG_RUN, f"a member of run {record.run_id[:32].hex() or 'none'}")
    if record.protocol_version != protocol_version:
        raise RemoteProtocolError(RefusalReason.WRONG_PROTOCOL, f"a member that speaks {record.protocol_version}")
    if not isfinite(record.expires_at) or record.expires_at > now + MAX_LIFETIME_S:
        raise RemoteProtocolError(RefusalReason.MALFORMED, f"a record until {record.expires_at}")
    if record.expires_at <= now:
        raise RemoteProtocolError(RefusalReason.EXPIRED, f"a record that ended {now - record.expires_at:.1f} s ago")
    is_public = record.reachability in _PUBLIC
    if is_public and not record.grpc_address:
        raise RemoteProtocolError(RefusalReason.LEAVING, "a member that has left")
    if is_public != bool(record.grpc_address):
        raise RemoteProtocolError(RefusalReason.MALFORMED, "an address of a member that cannot be dialled")
    if is_public and not is_address(record.grpc_address):
        raise RemoteProtocolError(RefusalReason.MALFORMED, "an address that is not host:port")
    if not (isfinite(record.progress_steps) and 0.0 <= record.progress_steps <= _MAX_PROGRESS_STEPS):
        raise RemoteProtocolError(RefusalReason.MALFORMED, f"progress of {record.progress_steps} steps")
    if len(record.certificate) not in (0, CERTIFICATE_BYTES):
        raise RemoteProtocolError(RefusalReason.MALFORMED, f"a certificate of {len(record.certificate)} bytes")
    peer = peer_id_from_bytes(record.peer_id)
    if rule is not None:
        rule.stay_s(peer, _admission(record), now)
    return Member(
        peer=peer,
        grpc_address=record.grpc_address,
        progress_steps=record.progress_steps,
        has_state=record.has_state,
        expires_at=record.expires_at,
        reachability=(
            Reachability.PUBLIC
            if is_public
            else _FROM_WIRE.get(record.reachability, Reachability.OUTBOUND_ONLY)  # a word that we do not know yet
        ),
        certificate=record.certificate,
        frozen=_frozen(record.frozen) if record.HasField("frozen") else None,
    )


def read_vitals(data: bytes) -> Vitals:
    """What the member of a record, which ``read_member`` has checked, tells of itself."""
    told = _open(data).vitals
    return to_vitals(told, is_address=is_address(told.metrics_address))


def is_storable(
    data: bytes, *, subkey: bytes, expires_at: float, rule: AdmissionRule | None = None, now: float = 0.0
) -> bool:
    """May this value stand under this subkey of the DHT until then, whatever run it is of?

    Where it is of the run of ``rule``, only if that lets its member in ``now``, Unix seconds.

    The DHT lets the later expiration win. Because it must be the one that was signed, nobody can put an old record
    of somebody else over a newer one.
    """
    try:
        record = _open(data)
        if rule is not None and record.run_id.hex() == rule.run_id:
            rule.stay_s(peer_id_from_bytes(record.peer_id), _admission(record), now)
    except RemoteProtocolError:
        return False
    return record.peer_id == subkey and record.expires_at == expires_at


def is_address(text: str) -> bool:
    """Is it host:port, and nothing that a resolver would take for another scheme?"""
    match = _ADDRESS.fullmatch(text)
    return match is not None and 0 < int(match[2]) < 65536


def bucket_key(run_id: RunId, bucket: Bucket) -> str:
    """DHT key of one bucket of a run's members."""
    return f"lowcomm/v1/{run_id}/members/{bucket.depth}/{bucket.prefix:x}"


def _frozen_to_wire(note: FrozenNote) -> records_pb2.FrozenFactors:
    return records_pb2.FrozenFactors(epoch=note.epoch, digest=bytes.fromhex(note.digest), factor=note.factor.value)


def _frozen(told: records_pb2.FrozenFactors) -> FrozenNote:
    if not 1 <= told.epoch <= _MAX_EPOCH or len(told.digest) != _DIGEST_BYTES or told.factor not in set(Factor):
        raise RemoteProtocolError(
            RefusalReason.MALFORMED,
            f"frozen factors of epoch {told.epoch}, a digest of {len(told.digest)} bytes, factor {told.factor[:8]!r}",
        )
    return FrozenNote(epoch=told.epoch, digest=told.digest.hex(), factor=Factor(told.factor))


def _open(data: bytes) -> records_pb2.MemberRecord:
    if len(data) > MAX_RECORD_BYTES:
        raise RemoteProtocolError(RefusalReason.OVERSIZED, f"a record of {len(data)} bytes")
    try:
        signed = records_pb2.SignedRecord.FromString(data)
        record = records_pb2.MemberRecord.FromString(signed.record)
    except DecodeError as error:
        raise RemoteProtocolError(RefusalReason.MALFORMED, "a record that does not parse") from error
    if not _is_signed(record.peer_id, signed.signature, signed.record):
        raise RemoteProtocolError(RefusalReason.CHECKSUM, "a record that its peer has not signed")
    return record


def _admission(record: records_pb2.MemberRecord) -> bytes:
    return record.admission.SerializeToString() if record.HasField("admission") else b""


@lru_cache(maxsize=4096)
def _is_signed(peer_id: bytes, signature: bytes, record: bytes) -> bool:
    """Remembered, because every holder of a bucket returns the same records."""
    return verify(peer_id, signature, _SIGNED_PREFIX + record)
