"""Options of the TCP connections that gRPC makes, which it does not let us set: found among this process's open files.

Loss-based congestion control takes 1% of random loss for a full line (measured at 20 Mbit/s and 100 ms: 0.1 of 2.4 MiB/s, BBR
2.2); keepalives keep a quiet connection alive in the tables of home routers; and the kernel takes megabytes that it cannot send yet
unless it is told not to, with a verdict behind them (at 20 Mbit/s and 100 ms: 0.9 s late, 0.3 s with 128 KiB).
"""

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["congestion_control", "received_bytes", "resent_share", "tune_connections"]

_WANTED = "bbr"
_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_CURRENT = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_OPEN_FILES = Path("/proc/self/fd")
_TCP_INFO = 11
_BYTES_RECEIVED = struct.Struct("=128xQ")
"""tcpi_bytes_received in struct tcp_info of linux/tcp.h."""
_OPTIONS = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 30),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 6),
    (socket.IPPROTO_TCP, "TCP_NOTSENT_LOWAT", 128 << 10),
)
_TCP_INFO_BYTES = 144
_TOTAL_RETRANS = slice(100, 104)
_SEGS_OUT = slice(136, 140)
"""Of Linux's struct tcp_info, which only ever grows at its end."""


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
        with suppress(OSError):
            if congestion != _congestion_of(connection):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
                num_tuned += 1
            for level, option, value in _OPTIONS:
                connection.setsockopt(level, getattr(socket, option), value)
    return num_tuned


def received_bytes() -> int | None:
    """Bytes that the kernel has received over the TCP connections this process has now; None where the system is not Linux."""
    if not _OPEN_FILES.is_dir():
        return None
    total = 0
    for connection in _tcp_sockets():
        with suppress(OSError, struct.error):
            info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_RECEIVED.size)
            total += _BYTES_RECEIVED.unpack(info)[0]
    return total


def resent_share(port: int) -> float | None:
    """Share of segments that were sent again, on this process's connections to this port; None when there is none."""
    sent = again = 0
    for connection in _tcp_sockets():
        with suppress(OSError):
            if connection.getpeername()[1] == port:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                if len(info) == _TCP_INFO_BYTES:
                    again += int.from_bytes(info[_TOTAL_RETRANS], sys.byteorder)
                    sent += int.from_bytes(info[_SEGS_OUT], sys.byteorder)
    return again / sent if sent else None


def _congestion_of(connection: socket.socket) -> str:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def _tcp_sockets() -> Iterator[socket.socket]:
    """Second handles on the process's TCP sockets, each closed after its turn: the sockets stay open."""
    try:
        numbers = [int(entry.name) for entry in _OPEN_FILES.iterdir()]
    except OSError:
        return
    for number in numbers:
        with suppress(OSError), _second_handle(number) as handle:
            if handle.family in (socket.AF_INET, socket.AF_INET6) and handle.type == socket.SOCK_STREAM:
                yield handle


@contextmanager
def _second_handle(number: int) -> Iterator[socket.socket]:
    copy = os.dup(number)
    try:
        handle = socket.socket(fileno=copy)  # asks the kernel for family and type; OSError when it is no socket
    except OSError:
        os.close(copy)
        raise
    with handle:
        yield handle
