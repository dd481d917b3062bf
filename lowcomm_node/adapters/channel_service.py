"""The answering end of a connection: who is calling? Asked before any other service reads a byte of what is called."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NoReturn, TypeVar, cast
from urllib.parse import unquote

import grpc
import grpc.aio

from lowcomm_node.adapters.identity import Identity
from lowcomm_node.adapters.tcp import plain_host
from lowcomm_node.core.doorway import Address, Doorway
from lowcomm_node.core.places import Places, Room
from lowcomm_node.core.quarantine import Quarantine
from lowcomm_node.core.sessions import Nonces, Sessions
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.ports import Bounded
from lowcomm_node.units import PeerId
from lowcomm_node.wire.admission import Membership
from lowcomm_node.wire.channel import CHANNEL_SERVICE, PROVE, TOKEN_BYTES, TOKEN_KEY, Claim, read_proof, write_welcome

__all__ = ["MAX_AT_THE_DOOR", "ChannelService"]

_WINDOW_S = 60.0
"""How old a proof may be when it arrives; clocks of a swarm agree to a few seconds."""
_PATIENCE_S = 5.0
MAX_AT_THE_DOOR = 128
_MAX_AT_THE_DOOR_PER_HOST = 64
"""Callers that have not said yet who they are; a swarm on one computer is one host."""
_MAX_CALLS_PER_PEER = 16
"""Calls and streams of one peer at a time: it has a bell here, a meeting, a download, and a few old meetings to settle."""

_Context = grpc.aio.ServicerContext
_Q = TypeVar("_Q")
_A = TypeVar("_A")


class ChannelService:
    """Gives tokens to callers that have proven who they are; ``handler`` and ``gate`` are for the ``GrpcServer``.

    Args:
        identity: whom callers must mean.
        membership: the run this node is in, and whom it lets in.
        quarantine: whom it leaves alone.
        certificate_sha256: of what this node's server shows.
        on_refused: told why a call was refused, and whose it was, where that is proven.
        max_calls: calls and streams that are served at a time, to those who have proven who they are.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        membership: Membership,
        quarantine: Quarantine,
        certificate_sha256: bytes,
        on_refused: Callable[[RemoteProtocolError], None],
        max_calls: int = 128,
    ) -> None:
        self._identity = identity
        self._membership = membership
        self._quarantine = quarantine
        self._certificate_sha256 = certificate_sha256
        self._on_refused = on_refused
        self._sessions = Sessions()
        self._nonces = Nonces(window_s=_WINDOW_S)
        self._at_the_door = Places(most=MAX_AT_THE_DOOR, most_of_one=_MAX_AT_THE_DOOR_PER_HOST)
        self._calls = Places(most=max_calls, most_of_one=_MAX_CALLS_PER_PEER)
        self.doorway = Doorway()
        """Which connections should end; somebody has to look."""

    @property
    def bounded(self) -> Mapping[str, Bounded]:
        """What cannot grow for ever here, by the words of ``telemetry.catalogue``."""
        return {"calls": self._calls, "door": self._at_the_door, "sessions": self._sessions, "nonces": self._nonces}

    def handler(self) -> grpc.GenericRpcHandler:
        """The service itself, as a stream: so it is ours to say how long a caller may take, and how much is read."""
        prove: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._prove)
        return grpc.method_handlers_generic_handler(CHANNEL_SERVICE, {PROVE: prove})

    def gate(self) -> grpc.aio.ServerInterceptor:
        """Turns every call away that has no token, before any of it is read."""
        return _Gate(self._sessions, self._turn_away)

    async def caller(self, context: "_Context[bytes, bytes]") -> PeerId:
        """Who makes this call; ends it when that is not proven, on this very connection."""
        peer = self._sessions.find(_token(context.invocation_metadata()), context.peer(), self._now())
        if peer is None:
            await self._turn_away(context)
        if (room := self._calls.take(peer)) is not Room.TAKEN:
            is_own = room is Room.OWN_SHARE_USED
            told = (
                f"{peer} has {_MAX_CALLS_PER_PEER} calls open; end one of them first" if is_own else "come back later"
            )
            await self._too_many(context, told)
        context.add_done_callback(lambda _: self._calls.leave(peer))  # type: ignore[arg-type]  # the stub takes no function
        return peer

    def end(self, peer: PeerId) -> None:
        """This peer has to prove itself again."""
        self._sessions.end(peer)
        self.doorway.disowned(peer)

    async def _prove(self, _: object, context: "_Context[bytes, bytes]") -> None:
        host, _ = _address(context)
        if self._at_the_door.take(host) is not Room.TAKEN:
            await self._too_many(context, "too many are at the door; come back in a moment")
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await context.write(self._welcome(await context.read(), context))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "You have not said who you are")
        except RemoteProtocolError as error:
            self._on_refused(error)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        finally:
            self._at_the_door.leave(host)

    def _welcome(self, data: object, context: "_Context[bytes, bytes]") -> bytes:
        """Check a proof and open a session. Raises RemoteProtocolError."""
        claim, admission = read_proof(
            data if isinstance(data, bytes) else b"",
            own=self._identity.peer_id,
            run_id=self._membership.run_id,
            protocol_version=self._membership.protocol_version,
            certificate_sha256=self._certificate_sha256,
        )
        self._check_age(claim)
        if (left_s := self._quarantine.left_s(claim.sender, self._now())) > 0:
            raise RemoteProtocolError(
                RefusalReason.QUARANTINED, f"{claim.sender} is left alone for {left_s:.0f} s more"
            )
        stay_s = self._membership.rule.stay_s(claim.sender, admission, time.time())
        token = secrets.token_bytes(TOKEN_BYTES)
        now = self._now()
        self._sessions.open(token, claim.sender, context.peer(), now, until=now + stay_s)
        self.doorway.proven(_address(context), claim.sender)
        return write_welcome(claim, token, self._membership.protocol_version, self._identity.sign)

    def _check_age(self, claim: Claim) -> None:
        age_s = time.time() - claim.issued_at
        if abs(age_s) > _WINDOW_S:
            raise RemoteProtocolError(
                RefusalReason.EXPIRED, f"a proof of {age_s:.0f} s ago; set the clock, best by NTP, if it is new"
            )
        if not self._nonces.is_new(claim.nonce, self._now()):
            raise RemoteProtocolError(RefusalReason.REPLAYED, f"a proof of {claim.sender} for the second time")

    async def _turn_away(self, context: "_Context[bytes, bytes]") -> NoReturn:
        error = RemoteProtocolError(RefusalReason.UNPROVEN, f"prove first who you are ({CHANNEL_SERVICE}/{PROVE})")
        self._on_refused(error)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        raise AssertionError("abort has raised")

    async def _too_many(self, context: "_Context[bytes, bytes]", told: str) -> NoReturn:
        error = RemoteProtocolError(RefusalReason.TOO_MANY, told)
        self._on_refused(error)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        raise AssertionError("abort has raised")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


class _Gate(grpc.aio.ServerInterceptor):
    """Looks at a call's token before gRPC reads what is called."""

    def __init__(self, sessions: Sessions, turn_away: Callable[["_Context[bytes, bytes]"], Awaitable[None]]) -> None:
        async def turned_away(_: object, context: "_Context[bytes, bytes]") -> None:
            await turn_away(context)

        self._sessions = sessions
        # Whatever kind of call it is: as a stream nothing of it is read.
        self._turned_away: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(turned_away)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[_Q, _A] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[_Q, _A] | None":
        handler = await continuation(handler_call_details)
        is_at_the_door = handler_call_details.method == f"/{CHANNEL_SERVICE}/{PROVE}"
        if is_at_the_door or self._sessions.knows(_token(handler_call_details.invocation_metadata)):
            return handler
        return cast("grpc.RpcMethodHandler[_Q, _A]", self._turned_away)


def _address(context: "_Context[bytes, bytes]") -> Address:
    """Where a call comes from; gRPC writes ``ipv4:192.0.2.1:7`` and ``ipv6:%5B2001:db8::1%5D:7``."""
    host, _, port = unquote(context.peer()).partition(":")[2].rpartition(":")
    return plain_host(host.strip("[]")), int(port) if port.isdecimal() else 0


def _token(metadata: Iterable[tuple[str, str | bytes]] | None) -> bytes:
    token = next((value for key, value in metadata or () if key == TOKEN_KEY), b"")
    return token if isinstance(token, bytes) else b""
