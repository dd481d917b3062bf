"""One p2pd (libp2p's daemon, a child process) from start to end, with the traps of hivemind's wrapper around it.

The wrapper reaches into private parts of hivemind 1.1; pyproject holds its version below 1.2 for that reason.
"""

import asyncio
import ipaddress
import logging
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowcomm_node.adapters.socket_folder import SocketFolder
from lowcomm_node.errors import ConfigError, DirectoryError
from lowcomm_node.ports import ChildKind, ChildLedger

if TYPE_CHECKING:
    from hivemind.p2p import P2P

__all__ = ["P2pOptions", "P2pProcess", "import_hivemind", "peer_of_given", "split_address"]

_STOP_GRACE_S = 3.0

_OWN_SESSION = """
import ctypes, os, sys
os.setsid()
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the node ended before its p2pd started")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Ctrl-C goes to a terminal's whole process group; p2pd has to outlive it so that the node can say good-bye. But when the
node itself ends, however it does, p2pd gets SIGKILL (PR_SET_PDEATHSIG = 1, which survives execv): left to itself it notices
only what it happens to read or write."""


def import_hivemind() -> None:
    """Import hivemind (1.7 s, with torch) and undo what that does to logging."""
    logger = logging.getLogger("hivemind")
    before = (list(logger.handlers), logger.propagate, logger.level)
    import hivemind  # noqa: F401, PLC0415 - late, so that only nodes pay for it

    logger.handlers, logger.propagate = before[0], before[1]
    logger.setLevel(before[2])


_RELAY_WORDS = ("-relayDiscovery=0", "-relayDataLimit=131072", "-relayTimeLimit=2m")
"""Relays are those that we name. p2pd starts two relay services, one with these limits and one with libp2p's own, and which of them
serves is a race: so both have the same. It is enough to punch a hole, and for nothing else."""


class P2pOptions:
    """Where p2pd listens and keeps its files.

    Args:
        identity_path: key file in libp2p's format.
        socket_dir: folder of its Unix sockets, of this node alone; a short substitute is used when it is too long.
        host: literal address to bind.
        port: TCP port; 0 takes a free one, which a restart then keeps.
        announce_host: name or address that others should dial; empty for the bound one.
        start_timeout_s: seconds it may take to start.
        ledger: is told of each p2pd that is started and ended.

    Raises:
        DirectoryError: ``host`` is not a literal address.
    """

    def __init__(
        self,
        *,
        identity_path: Path,
        socket_dir: Path,
        host: str,
        port: int,
        announce_host: str,
        start_timeout_s: float,
        ledger: ChildLedger | None = None,
    ) -> None:
        self.ledger = ledger
        self.identity_path = identity_path
        self.host = host
        self.port = port
        self.announce_host = announce_host
        self.start_timeout_s = start_timeout_s
        self.is_public = True
        """Others can dial this node. May change between two starts, as may ``relays``."""
        self.relays: tuple[str, ...] = ()
        """Multiaddresses of nodes that may be relays for one that is not public."""
        self.sockets = SocketFolder(socket_dir)
        try:
            self._ip = f"ip{ipaddress.ip_address(host).version}"
        except ValueError as error:
            raise DirectoryError(
                f"network.host = {host!r} is not an address; give digits such as 127.0.0.1 or 0.0.0.0"
            ) from error

    def listen_address(self) -> str:
        """Multiaddress to bind."""
        return f"/{self._ip}/{self.host}/tcp/{self.port}"

    def announce_address(self) -> str | None:
        """Multiaddress others should dial, None for the bound one."""
        if not self.announce_host:
            return None
        try:
            kind = f"ip{ipaddress.ip_address(self.announce_host).version}"
        except ValueError:
            kind = "dns4"
        return f"/{kind}/{self.announce_host}/tcp/{self.port}"

    def claim_port(self) -> None:
        """Settle on a port and make sure that nobody else listens there: libp2p itself would share it silently.

        Raises:
            DirectoryError: the port is taken, or the address is not this machine's.
        """
        family = socket.AF_INET6 if self._ip == "ip6" else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
                probe.listen(1)  # a bound socket alone does not clash with another one
            except OSError as error:
                raise DirectoryError(
                    f"cannot listen on {self.host}:{self.port}: {error.strerror}; set network.dht_port to a free port "
                    "(0 picks one) or network.host to an own address"
                ) from error
            self.port = probe.getsockname()[1]


class P2pProcess:
    """A running p2pd and hivemind's handle on it."""

    def __init__(self, p2p: "P2P", options: P2pOptions) -> None:
        self.p2p = p2p
        self._options = options
        if options.ledger is not None:
            options.ledger.started(ChildKind.P2PD, self.pid, options.sockets.path)
        # Nobody awaits hivemind's reader; when p2pd dies it fails, which the watchdog has noticed already.
        p2p._client.control._read_task.add_done_callback(_look_at)  # noqa: SLF001

    @classmethod
    async def start(cls, options: P2pOptions) -> "P2pProcess":
        """Start p2pd without any peers.

        Raises:
            DirectoryError: the port is taken, or p2pd does not start.
        """
        import_hivemind()
        options.claim_port()
        options.sockets.claim()
        starting = asyncio.ensure_future(
            _p2p_class(options.sockets.path).create(
                identity_path=str(options.identity_path),
                check_if_identity_free=False,  # starts a second p2pd and misses what it looks for
                host_maddrs=[options.listen_address()],
                announce_maddrs=[announced] if (announced := options.announce_address()) else None,
                startup_timeout=options.start_timeout_s,
                auto_nat=True,  # its switch for hole punching
                nat_port_map=False,
                use_relay=True,
                use_auto_relay=not options.is_public and bool(options.relays),
                trusted_relays=options.relays if not options.is_public and options.relays else None,
                force_reachability="public" if options.is_public else "private",  # to be found out takes it minutes
            )
        )
        try:
            # hivemind forgets the process that it has started when it is interrupted in the middle.
            p2p = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await _end_late(starting, options)
            raise
        except _p2p_error() as error:
            options.sockets.release()
            raise DirectoryError(f"p2pd does not start on {options.listen_address()}: {error}") from error
        return cls(p2p, options)

    @property
    def pid(self) -> int:
        return int(self.p2p._child.pid)  # noqa: SLF001 - hivemind has no public name for it

    def end(self) -> None:
        """End p2pd; ``wait`` returns, and ``stop`` is still to be called."""
        with suppress(ProcessLookupError):
            self.p2p._child.terminate()  # noqa: SLF001

    async def wait(self) -> int:
        """Return when p2pd has ended; hivemind's own ``is_alive`` would not notice."""
        return int(await self.p2p._child.wait())  # noqa: SLF001

    async def connect(self, address: str) -> None:
        """Connect to a peer by its multiaddress. Raises DirectoryError with p2pd's own words; give it a deadline."""
        peer, maddr = split_address(address)
        try:
            await self.p2p._client.connect(peer, [maddr])  # noqa: SLF001
        except (_p2p_error(), OSError, asyncio.IncompleteReadError) as error:
            raise DirectoryError(_shortened(error)) from error

    def open_hole(self, host: str, port: int) -> None:
        """Send one packet from p2pd's port to another node's, for our router to let in what comes from there. Raises DirectoryError.

        The socket is gone before an answer can come: who dials us then finds p2pd, which listens at that port.
        """
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as knock:
            knock.setblocking(False)
            knock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            knock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as p2pd does
            try:
                knock.bind((self._options.host, self._options.port))
                knock.connect_ex((host, port))
            except OSError as error:
                raise DirectoryError(f"no hole can be punched from port {self._options.port}: {error}") from error

    async def stop(self) -> None:
        """End p2pd, by force if it takes its time, and remove its sockets. Never asks it anything."""
        child = self.p2p._child  # noqa: SLF001
        self.p2p._terminate()  # noqa: SLF001
        try:
            async with asyncio.timeout(_STOP_GRACE_S):
                await child.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
        if self._options.ledger is not None:
            self._options.ledger.ended(self.pid)
        self._options.sockets.release()


def split_address(address: str) -> tuple[Any, Any]:
    """Peer id and dialable part of a multiaddress that ends in /p2p/ID.

    Raises:
        DirectoryError: it is none.
    """
    from hivemind.p2p import PeerID  # noqa: PLC0415
    from hivemind.utils.multiaddr import Multiaddr  # noqa: PLC0415

    try:
        way, _, name = str(Multiaddr(address)).rpartition(
            "/p2p/"
        )  # the last one: the relay of a relayed address has a name too
        if not way.strip("/"):
            raise ValueError("no address before the name")
        return PeerID.from_base58(name), Multiaddr(way)
    except (ValueError, KeyError, LookupError, TypeError) as error:
        raise DirectoryError(
            f"{address!r} is not a peer's address; one looks like /ip4/203.0.113.5/tcp/31337/p2p/12D3KooW..."
        ) from error


def peer_of_given(address: str) -> str:
    """Peer id in an address that a person has given, and not the network: a mistake of theirs, which no later try mends. Raises ConfigError."""
    try:
        return str(split_address(address)[0])
    except DirectoryError as error:
        raise ConfigError(str(error)) from error


async def _end_late(starting: "asyncio.Future[P2P]", options: P2pOptions) -> None:
    """End a p2pd that nobody waits for any more as soon as it is up."""
    with suppress(TimeoutError, _p2p_error()):
        async with asyncio.timeout(_STOP_GRACE_S):
            await P2pProcess(await starting, options).stop()
    options.sockets.release()


def _p2p_class(socket_dir: Path) -> "type[P2P]":
    from hivemind.p2p import P2P  # noqa: PLC0415

    class OwnP2P(P2P):  # type: ignore[misc]
        _UNIX_SOCKET_PREFIX = f"/unix{socket_dir.absolute()}/s-"

        @staticmethod
        def _make_process_args(*args: object, **kwargs: object) -> list[str]:
            command = [*P2P._make_process_args(*args, **kwargs), *_RELAY_WORDS]  # noqa: SLF001 - the one place to put a word in
            return [sys.executable, "-I", "-S", "-c", _OWN_SESSION, str(os.getpid()), *command]

    return OwnP2P


def _p2p_error() -> type[Exception]:
    from hivemind.p2p import P2PDaemonError  # noqa: PLC0415

    error: type[Exception] = P2PDaemonError
    return error


def _look_at(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        task.exception()


def _shortened(error: BaseException) -> str:
    """p2pd lists every address it tried over several lines."""
    return " ".join(str(error).split())[:300] or type(error).__name__
