"""The dialling end of a connection: says who this node is, and makes sure of whom it has reached."""

import secrets
import time

import grpc
import grpc.aio

from lowcomm_node.adapters.identity import Identity
from lowcomm_node.core.versions import Versions
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.admission import Membership
from lowcomm_node.wire.channel import CHANNEL_SERVICE, NONCE_BYTES, PROVE, Claim, read_welcome, write_proof

__all__ = ["Introduction"]


class Introduction:
    """What this node proves on each connection that it makes."""

    def __init__(self, identity: Identity, versions: Versions) -> None:
        self._identity = identity
        self._versions = versions
        self._membership: Membership | None = None

    def enter(self, membership: Membership) -> None:
        """This node is in a run now."""
        self._membership = membership

    async def make(
        self, channel: grpc.aio.Channel, receiver: PeerId, certificate_sha256: bytes, timeout_s: float
    ) -> bytes:
        """Connect, and prove who we are; returns the token for further calls.

        Raises:
            LinkError: ``unreachable``, or ``timeout``.
            RemoteProtocolError: WRONG_CERTIFICATE, CHECKSUM when another answers than was meant, or why it has refused us.
        """
        run = self._membership
        if run is None:
            raise LinkError("unreachable", "this node is in no run yet")
        claim = Claim(
            versions=self._versions,
            run_id=run.run_id,
            sender=self._identity.peer_id,
            receiver=receiver,
            certificate_sha256=certificate_sha256,
            nonce=secrets.token_bytes(NONCE_BYTES),
            issued_at=time.time(),
        )
        prove: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{CHANNEL_SERVICE}/{PROVE}")
        try:
            answer = await prove(write_proof(claim, self._identity.sign, run.admission), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _told(error, timeout_s) from error
        except grpc.aio.BaseError as error:
            raise LinkError("unreachable", "the channel was closed") from error
        return read_welcome(answer, claim)


def _told(error: grpc.aio.AioRpcError, timeout_s: float) -> LinkError | RemoteProtocolError:
    """gRPC's status as one of our own errors."""
    code, details = error.code(), error.details() or "no details"
    word, _, sentence = details.partition(": ")
    if code is grpc.StatusCode.FAILED_PRECONDITION and word in set(RefusalReason):
        return RemoteProtocolError(RefusalReason(word), f"the other end says: {sentence}")
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return RemoteProtocolError(RefusalReason.WRONG_CERTIFICATE, "another answers than the one whose record this is")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return LinkError("unreachable", f"no answer in {timeout_s:g} s")
    return LinkError("unreachable", f"{code.name.lower()}: {details}")
