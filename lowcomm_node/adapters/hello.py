"""What a joiner is told when it says hello, and what it believes of it."""

import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from math import isfinite
from typing import TypeGuard

from lowcomm_node.core.versions import Versions
from lowcomm_node.errors import (
    ConfigError,
    DirectoryError,
    LowcommError,
    NoPeerError,
    RefusalReason,
    RemoteProtocolError,
)
from lowcomm_node.ports import Welcome
from lowcomm_node.units import RunId
from lowcomm_node.wire.admission import Membership
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.limits import MAX_MANIFEST_BYTES
from lowcomm_node.wire.records import read_member

__all__ = ["MAX_CLOCK_OFFSET_S", "answer_hello", "no_peer", "no_welcome", "read_welcome", "wrong_clock"]

MAX_CLOCK_OFFSET_S = 2.5
"""A node further off has records that are void for others, or that outlive it; hivemind's own bound is 3 s."""


def answer_hello(
    request: records_pb2.HelloRequest, run: Membership, record: Callable[[], bytes]
) -> records_pb2.HelloResponse:
    """What a node of ``run`` says; ``record`` makes it a new one of its own. Raises DirectoryError in words for the joiner."""
    newest = request.protocol_version
    if run.protocol_version not in Versions(oldest=request.min_protocol_version or newest, newest=newest):
        # Its own program says best what to do about it.
        return records_pb2.HelloResponse(protocol_version=run.protocol_version, run_id=bytes.fromhex(run.run_id))
    if request.run_id and request.run_id.hex() != run.run_id:
        raise DirectoryError(f"this node is in run {run.run_id}")
    return records_pb2.HelloResponse(
        protocol_version=run.protocol_version,
        run_id=bytes.fromhex(run.run_id),
        manifest=run.manifest,
        member=records_pb2.SignedRecord.FromString(record()),
        now=time.time(),
    )


def read_welcome(
    response: records_pb2.HelloResponse,
    *,
    run_id: RunId | None,
    versions: Versions,
    between: tuple[float, float],
) -> Welcome:
    """Check a hello's answer: protocol version, manifest against run id, the peer's own record, its clock.

    Args:
        response: what came.
        run_id: the run asked for, None for whichever.
        versions: what we speak.
        between: our wall clock when we asked and when the answer was there.

    Raises:
        RemoteProtocolError: with the reason.
    """
    if response.protocol_version not in versions:
        raise RemoteProtocolError(RefusalReason.WRONG_PROTOCOL, versions.advice(response.protocol_version))
    if len(response.manifest) > MAX_MANIFEST_BYTES:
        raise RemoteProtocolError(RefusalReason.OVERSIZED, f"a manifest of {len(response.manifest)} bytes")
    if sha256(response.manifest).digest() != response.run_id:
        raise RemoteProtocolError(RefusalReason.CHECKSUM, "its manifest is not that of the run it names")
    found = RunId(response.run_id.hex())
    if run_id is not None and found != run_id:
        raise RemoteProtocolError(RefusalReason.WRONG_RUN, f"it is in run {found}")
    if not isfinite(response.now):
        raise RemoteProtocolError(RefusalReason.MALFORMED, "its clock shows no time")
    record = response.member.SerializeToString()
    member = read_member(record, run_id=found, protocol_version=response.protocol_version, now=response.now)
    return Welcome(
        run_id=found,
        manifest=response.manifest,
        member=member,
        record=record,
        clock_offset_s=response.now - sum(between) / 2,
    )


def no_welcome(outcomes: Mapping[str, str | LowcommError], offset_s: float) -> LowcommError:
    """The error where somebody was asked, and nobody can be joined; ``offset_s`` as in ``wrong_clock``, 0 where clocks agree.

    Asking again helps only where it is neither the clock nor, at every address, the version.
    """
    if offset_s:
        return wrong_clock(offset_s)
    misfits = [error.detail for error in outcomes.values() if _is_misfit(error)]
    if misfits and len(misfits) == len(outcomes):
        return ConfigError(misfits[0])
    return no_peer({address: str(told) for address, told in outcomes.items()})


def _is_misfit(outcome: str | LowcommError) -> TypeGuard[RemoteProtocolError]:
    return isinstance(outcome, RemoteProtocolError) and outcome.reason is RefusalReason.WRONG_PROTOCOL


def no_peer(outcomes: Mapping[str, str]) -> NoPeerError:
    """The error that names each address and what happened there."""
    told = "\n".join(f"  {address}: {outcome}" for address, outcome in outcomes.items())
    return NoPeerError(f"none of the given peers can be joined:\n{told}")


def wrong_clock(offset_s: float) -> DirectoryError:
    """The error for a clock ``offset_s`` behind that of the peers (negative: ahead)."""
    side = "behind" if offset_s > 0 else "ahead of"
    return DirectoryError(
        f"this machine's clock is {abs(offset_s):.1f} s {side} its peers' and its records would not be believed; "
        "set the clock, best by NTP"
    )
