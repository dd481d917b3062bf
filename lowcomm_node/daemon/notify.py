"""What a service manager is told (sd_notify(3)): ready, alive, what we do, leaving. One datagram each, nothing without one."""

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

__all__ = ["ServiceNotifier"]

_STATUS_EVERY_S = 5.0
_EXTENSION_S = 30.0
"""Asked for with every status while the node is not ready: several times the interval, so that one may be late."""
_MAX_STATUS_LENGTH = 400


class ServiceNotifier:
    """Speaks to the service manager of this process, when there is one. Never raises, never waits.

    ``beat`` is to be called often; it sends at a bounded rate.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """``address``: of the manager's socket, @ for an abstract one, empty for none. ``watchdog_s``: 0 for none."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self._is_ready = self._is_leaving = False
        self._fed_at = self._told_at = float("-inf")
        self._told = ""

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> "ServiceNotifier":
        """As the manager said. Takes its variables out of ``environ``, so that no child believes to be meant."""
        address = environ.pop("NOTIFY_SOCKET", "")
        pid, interval = environ.pop("WATCHDOG_PID", ""), environ.pop("WATCHDOG_USEC", "")
        is_meant = interval.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address if address[:1] in ("/", "@") else "", int(interval) / 1e6 if is_meant else 0.0)

    def ready(self) -> None:
        """The node is a member of a run."""
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1")

    def stopping(self, within_s: float) -> None:
        """The node leaves, which may take it this long."""
        if not self._is_leaving:
            self._is_leaving = True
            self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(within_s * 1e6)}")

    def beat(self, now: float, status: str, *, state: str, is_well: bool) -> None:
        """The event loop has come round; ``is_well`` when it and what it depends on work. A new ``state`` is told at once."""
        lines = []
        if is_well and self._watchdog_s and now - self._fed_at >= self._watchdog_s / 3:
            self._fed_at = now
            lines.append("WATCHDOG=1")
        if state != self._told or now - self._told_at >= _STATUS_EVERY_S:
            self._told, self._told_at = state, now
            lines.append("STATUS=" + " ".join(status.split())[:_MAX_STATUS_LENGTH])
            if is_well and not self._is_ready and not self._is_leaving:
                lines.append(f"EXTEND_TIMEOUT_USEC={round(_EXTENSION_S * 1e6)}")
        if lines:
            self._send(*lines)

    def close(self) -> None:
        """Nothing more is said."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            with suppress(OSError):  # nobody listens or the manager's queue is full: it will ask the watchdog
                self._socket.sendto("\n".join(lines).encode(), self._address)
