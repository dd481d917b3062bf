"""Local administration: a gRPC service on a Unix socket in the state directory, and the client the commands use.

Who may open the socket (its owner) may ask; there is no other authentication.
"""

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import grpc
from grpc import aio

from lowcomm_node.daemon.lock import StateDirLock
from lowcomm_node.errors import ConfigError, LowcommError, StoreError
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import (
    DumpRequest,
    DumpResponse,
    History,
    HistoryRequest,
    LeaveRequest,
    LeaveResponse,
    PauseRequest,
    PauseResponse,
    Peers,
    PeersRequest,
    ResumeRequest,
    ResumeResponse,
    Status,
    StatusRequest,
)
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2_grpc import (
    ControlServicer,
    ControlStub,
    add_ControlServicer_to_server,
)

__all__ = ["ControlClient", "ControlServer", "NoNodeError", "NodeSilentError", "socket_path"]

_SOCKET_NAME = "control.sock"
_MAX_PATH_BYTES = 100
"""Unix sockets have names of at most 103 (macOS) or 107 (Linux) bytes."""
_MAX_REQUEST_BYTES = 4096
_MAX_CALLS = 16
_STOP_GRACE_S = 0.5
_DUMP_TIMEOUT_S = 60.0


_T = TypeVar("_T")


class NoNodeError(LowcommError):
    """No node runs in this state directory."""

    code = "no_node"


class NodeSilentError(LowcommError):
    """A node is there but does not answer."""

    code = "node_silent"


def socket_path(state_dir: Path) -> Path:
    """Where the control socket of a state directory is. Raises ConfigError when its name would be too long."""
    path = state_dir.absolute() / _SOCKET_NAME
    length = len(os.fsencode(path))
    if length > _MAX_PATH_BYTES:
        raise ConfigError(
            f"state_dir = {str(state_dir)!r}: the control socket in it would have a name of {length} bytes, "
            f"allowed are {_MAX_PATH_BYTES}; choose a shorter directory with --state-dir"
        )
    return path


class ControlServer:
    """The node's end. Start it before anything else and stop it last: it also holds the state directory's lock."""

    def __init__(
        self,
        state_dir: Path,
        *,
        status: Callable[[], Status],
        peers: Callable[[], Peers],
        history: Callable[[], History],
        leave: Callable[[], None],
        pause: Callable[[float], None],
        resume: Callable[[], None],
        dump: Callable[[bool], Awaitable[Path]],
    ) -> None:
        self._state_dir = state_dir
        self._lock = StateDirLock(state_dir)
        self._servicer = _Servicer(
            status=status, peers=peers, history=history, leave=leave, pause=pause, resume=resume, dump=dump
        )
        self._server: aio.Server | None = None

    async def start(self) -> None:
        """Lock the directory and listen. Raises StoreError when a node is already running here."""
        path = socket_path(self._state_dir)
        self._lock.acquire()
        try:
            # We hold the lock, so a socket that is there belongs to a process that is gone.
            path.unlink(missing_ok=True)
            server = aio.server(
                options=[("grpc.max_receive_message_length", _MAX_REQUEST_BYTES)],
                maximum_concurrent_rpcs=_MAX_CALLS,
            )
            add_ControlServicer_to_server(self._servicer, server)
            _bind_for_owner_only(server, path)
            await server.start()
        except BaseException:
            self._lock.release()
            raise
        self._server = server

    async def stop(self) -> None:
        """Answer what has been asked, close the socket, and give the directory back."""
        if self._server is not None:
            await self._server.stop(_STOP_GRACE_S)
            self._server = None
            socket_path(self._state_dir).unlink(missing_ok=True)
            self._lock.release()


class ControlClient:
    """A command's end: blocking calls, each with a time limit."""

    def __init__(self, state_dir: Path, *, timeout_s: float = 5.0) -> None:
        self._state_dir = state_dir
        self._timeout_s = timeout_s
        self._path = socket_path(state_dir)
        self._channel = grpc.insecure_channel(_address(self._path), options=[("grpc.enable_http_proxy", 0)])
        self._stub = ControlStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def status(self) -> Status:
        """What the node is doing. Raises NoNodeError, NodeSilentError, PermissionError (so do the others)."""
        return self._call(lambda: self._stub.GetStatus(StatusRequest(), timeout=self._timeout_s))

    def peers(self) -> Peers:
        """The members it knows."""
        return self._call(lambda: self._stub.ListPeers(PeersRequest(), timeout=self._timeout_s))

    def history(self) -> History:
        """How it went since the node started."""
        return self._call(lambda: self._stub.GetHistory(HistoryRequest(), timeout=self._timeout_s))

    def leave(self) -> None:
        """Ask it to leave; returns when it has agreed to, not when it has left."""
        self._call(lambda: self._stub.Leave(LeaveRequest(), timeout=self._timeout_s))

    def pause(self, for_s: float) -> None:
        """Ask it to leave the machine to its owner for so long, or until ``resume`` when that is 0; returns when it has agreed to."""
        self._call(lambda: self._stub.Pause(PauseRequest(for_seconds=for_s), timeout=self._timeout_s))

    def resume(self) -> None:
        """Take a pause back."""
        self._call(lambda: self._stub.Resume(ResumeRequest(), timeout=self._timeout_s))

    def dump(self, *, is_full: bool) -> Path:
        """Have the flight recorder written; returns the file, in the state directory. Raises StoreError besides."""
        request = DumpRequest(full=is_full)
        return Path(self._call(lambda: self._stub.Dump(request, timeout=_DUMP_TIMEOUT_S)).path)

    def _call(self, call: Callable[[], _T]) -> _T:
        if not self._path.exists():
            raise self._no_node()
        if not os.access(self._path, os.W_OK):
            raise PermissionError(errno.EACCES, "the node belongs to another user", str(self._path))
        try:
            return call()
        except grpc.RpcError as error:
            code = error.code() if hasattr(error, "code") else None
            if code is grpc.StatusCode.UNAVAILABLE:
                raise self._no_node() from error
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NodeSilentError(
                    f"the node in {self._state_dir} has not answered within {self._timeout_s:g} s; its log may say why"
                ) from error
            if code is grpc.StatusCode.CANCELLED:
                raise NodeSilentError(f"the node in {self._state_dir} is closing its control socket") from error
            if code is grpc.StatusCode.FAILED_PRECONDITION:
                raise StoreError(error.details()) from error
            raise LowcommError(f"the node in {self._state_dir} could not answer: {error}") from error

    def _no_node(self) -> NoNodeError:
        return NoNodeError(
            f"no node is running in {self._state_dir}; start one with 'lowcomm-node join', "
            "or say where it keeps its state with --state-dir"
        )


class _Servicer(ControlServicer):
    """Answers from the event loop, out of the callables the node gave."""

    def __init__(
        self,
        *,
        status: Callable[[], Status],
        peers: Callable[[], Peers],
        history: Callable[[], History],
        leave: Callable[[], None],
        pause: Callable[[float], None],
        resume: Callable[[], None],
        dump: Callable[[bool], Awaitable[Path]],
    ) -> None:
        self._status = status
        self._peers = peers
        self._history = history
        self._leave = leave
        self._pause = pause
        self._resume = resume
        self._dump = dump

    async def GetStatus(self, request: StatusRequest, context: object) -> Status:  # noqa: ARG002, N802 - generated
        return self._status()

    async def ListPeers(self, request: PeersRequest, context: object) -> Peers:  # noqa: ARG002, N802 - generated
        return self._peers()

    async def GetHistory(self, request: HistoryRequest, context: object) -> History:  # noqa: ARG002, N802 - generated
        return self._history()

    async def Leave(self, request: LeaveRequest, context: object) -> LeaveResponse:  # noqa: ARG002, N802 - generated
        self._leave()
        return LeaveResponse()

    async def Pause(self, request: PauseRequest, context: object) -> PauseResponse:  # noqa: ARG002, N802 - generated
        self._pause(request.for_seconds)
        return PauseResponse()

    async def Resume(self, request: ResumeRequest, context: object) -> ResumeResponse:  # noqa: ARG002, N802 - generated
        self._resume()
        return ResumeResponse()

    async def Dump(self, request: DumpRequest, context: aio.ServicerContext[DumpRequest, DumpResponse]) -> DumpResponse:  # noqa: N802
        try:
            return DumpResponse(path=str(await self._dump(request.full)))
        except StoreError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))


def _bind_for_owner_only(server: aio.Server, path: Path) -> None:
    # The socket is listening as soon as it has a name: its mode must be right from the first moment.
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(_address(path))
    except RuntimeError as error:
        raise StoreError(f"{path}: cannot make the control socket: {error}") from error
    finally:
        os.umask(mask)


def _address(path: Path) -> str:
    # gRPC reads the name as a URI: what is special in those must be escaped.
    return f"unix:{quote(os.fsencode(path))}"
