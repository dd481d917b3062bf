"""Options of the TCP connections that gRPC makes, which it does not let us set: found among this process's open files.

Loss-based congestion control takes 1% of random loss for a full line (measured at 20 Mbit/s and 100 ms: 0.1 of 2.4 MiB/s, BBR
2.2); keepalives keep a quiet connection alive in the tables of home routers.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["congestion_control", "resent_share", "tune_connections"]

_WANTED = "bbr"
_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_CURRENT = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_OPEN_FILES = Path("/proc/self/fd")
_KEEPALIVE = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 30),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 6),
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
    """Set both on every TCP socket of this process that has not got them; returns how many that were.

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
            for level, option, value in _KEEPALIVE:
                connection.setsockopt(level, getattr(socket, option), value)
    return num_tuned


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
