"""Options of the TCP connections that gRPC makes, which it does not let us set: found among this process's open files.

Loss-based congestion control takes 1% of random loss for a full line (measured at 20 Mbit/s and 100 ms: 0.1 of 2.4 MiB/s, BBR
2.2); keepalives keep a quiet connection alive in the tables of home routers; and the kernel takes megabytes that it cannot send yet
unless it is told not to, with a verdict behind them (at 20 Mbit/s and 100 ms: 0.9 s late, 0.3 s with 128 KiB).
"""

import ctypes
import ipaddress
import os
import socket
import stat
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from lowcomm_node.core.doorway import Address

__all__ = [
    "congestion_control",
    "end_incoming",
    "incoming",
    "plain_host",
    "received_bytes",
    "resent_share",
    "tune_connections",
]

_WANTED = "bbr"
_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_CURRENT = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_OPEN_FILES = Path("/proc/self/fd")
_PIDFD_GETFD = 438
"""Number of the system call, the same on all machines; Python has no name for it."""
_TCP_INFO = 11
_ROUND_TRIP = struct.Struct("=68xI")
_TOTAL_RETRANS = struct.Struct("=100xI")
_BYTES_RECEIVED = struct.Struct("=128xQ")
_SEGS_OUT = struct.Struct("=136xI")
"""tcpi_rtt, in microseconds, and others of the same names in struct tcp_info of linux/tcp.h, which only grows at its end."""
_OPTIONS = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 30),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 6),
)
_UNSENT_BYTES = 128 << 10
_FAR_US = 5_000
"""Round trips from which on what waits in the kernel is felt; on loopback the limit would cost a quarter of the rate."""


def congestion_control() -> str:
    """What connections use after ``tune_connections``: bbr where this kernel has it, else its own choice; empty where unknown."""
    with suppress(OSError):
        if _WANTED in _AVAILABLE.read_text().split():
            return _WANTED
        return _CURRENT.read_text().strip()
    return ""


def tune_connections() -> int:
    """Set all of this on every TCP socket of this process; returns how many had another congestion control.

    Sockets that a listening one accepts later inherit them. Does nothing where the system is not Linux.
    """
    congestion = congestion_control()
    num_tuned = 0
    for connection in _tcp_sockets():
        # The kernel may refuse an algorithm to those without rights, and another thread may have closed the socket.
        with suppress(OSError, struct.error):
            if congestion != _congestion_of(connection):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
                num_tuned += 1
            if not _has_keepalives(connection):
                for level, option, value in _OPTIONS:
                    connection.setsockopt(level, getattr(socket, option), value)
            if _of_info(connection, _ROUND_TRIP) >= _FAR_US:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return num_tuned


def received_bytes(child: int | None = None) -> int | None:
    """Bytes that the kernel has received over the TCP connections this process, or a child of it, has now; None where the system is not Linux."""
    if not _OPEN_FILES.is_dir():
        return None
    total = 0
    for connection in _tcp_sockets(child):
        with suppress(OSError, struct.error):
            total += _of_info(connection, _BYTES_RECEIVED)
    return total


def resent_share(port: int) -> float | None:
    """Share of segments that were sent again, on this process's connections to this port; None when there is none."""
    sent = again = 0
    for connection in _tcp_sockets():
        with suppress(OSError, struct.error):
            if connection.getpeername()[1] == port:
                again += _of_info(connection, _TOTAL_RETRANS)
                sent += _of_info(connection, _SEGS_OUT)
    return again / sent if sent else None


def incoming(port: int) -> list[Address]:
    """Far ends of the connections that others have made to this port of ours; none where the system is not Linux."""
    return [address for connection in _tcp_sockets() if (address := _caller(connection, port)) is not None]


def end_incoming(port: int, addresses: Collection[Address]) -> list[Address]:
    """Shut these connections to this port of ours, both ways; gives those that were there."""
    ended = []
    for connection in _tcp_sockets() if addresses else ():
        address = _caller(connection, port)
        if address is not None and address in addresses:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
                ended.append(address)
    return ended


def _caller(connection: socket.socket, port: int) -> Address | None:
    """Who is at the far end of a connection to ``port``; None for any other socket."""
    try:
        if connection.getsockname()[1] != port:
            return None
        host, far_port = connection.getpeername()[:2]
    except OSError:  # it listens, or is gone
        return None
    return plain_host(host), far_port


@lru_cache(maxsize=256)
def plain_host(host: str) -> str:
    """One spelling for each IP address: without a scope, and IPv4 as such where a socket for both has mapped it."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _of_info(connection: socket.socket, field: struct.Struct) -> int:
    """One number of the kernel's account of a connection. Raises OSError, and struct.error where the kernel's is shorter."""
    number: int = field.unpack(connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, field.size))[0]
    return number


def _has_keepalives(connection: socket.socket) -> bool:
    """All of them: ours are set together, by the last one it shows."""
    level, option, value = _OPTIONS[-1]
    return connection.getsockopt(level, getattr(socket, option)) == value


def _congestion_of(connection: socket.socket) -> str:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def _tcp_sockets(child: int | None = None) -> Iterator[socket.socket]:
    """Second handles on the TCP sockets of this process, or of a child, each closed after its turn: the sockets stay open."""
    try:
        with _opener(child) as copy_of:
            folder = _OPEN_FILES if child is None else Path(f"/proc/{child}/fd")
            for number in [int(entry.name) for entry in os.scandir(folder)]:
                handle = None if child is None and not _is_socket(number) else _second_handle(copy_of, number)
                if handle is None:
                    continue
                try:
                    if handle.proto == socket.IPPROTO_TCP:
                        yield handle
                finally:
                    handle.close()
    except OSError:
        return


@contextmanager
def _opener(child: int | None) -> Iterator[Callable[[int], int]]:
    """What makes a copy of an open file, by its number. Raises OSError."""
    if child is None:
        yield os.dup
        return
    process = os.pidfd_open(child)

    def copy_of(number: int) -> int:
        copy = int(ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, number, 0))
        if copy < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return copy

    try:
        yield copy_of
    finally:
        os.close(process)


def _is_socket(number: int) -> bool:
    """Asked before a copy is made: most open files are none, and to be told so by an error costs five times as much."""
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:  # another thread has closed it
        return False


def _second_handle(copy_of: Callable[[int], int], number: int) -> socket.socket | None:
    """None for what is no socket, or gone."""
    try:
        copy = copy_of(number)
    except OSError:
        return None
    try:
        return socket.socket(fileno=copy)  # asks the kernel for family and type; OSError when it is no socket
    except OSError:
        os.close(copy)
        return None
