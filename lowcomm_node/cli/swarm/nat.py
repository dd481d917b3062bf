"""A home router as arithmetic: one node behind one public address, and nothing gets in that was not asked for.

A cone does what Linux's MASQUERADE does for a single host: ports are kept, and the public address takes the place of the
private one. A symmetric router gives each flow a port of its own, as many carriers' do, so that what one remote has seen is of no
use to another. With both, an incoming packet must belong to a flow that the inside has begun, with exactly this remote address and port.
"""

from collections import OrderedDict
from dataclasses import dataclass

__all__ = ["Router"]

_TCP, _UDP = 6, 17
_CHECKSUM_AT = {_TCP: 16, _UDP: 6}
_IDLE_S = {_TCP: 7440.0, _UDP: 30.0}
"""How long a flow is remembered: what RFC 5382 asks for of TCP, and what routers usually do for UDP."""
_MAX_FLOWS = 16_384
_FIRST_PORT = 32_768
"""Of a symmetric router's own; there are as many as flows."""
_SOURCE_AT, _TARGET_AT = 12, 16
_FRAGMENT = 0x1FFF


@dataclass(slots=True)
class _Flow:
    """Protocol, remote address and port are in the keys under which it is found. Ports are of two bytes."""

    own_port: bytes
    outer_port: bytes
    used_at: float
    remote: bytes


class Router:
    """Rewrites IPv4 packets in both directions. ``inside`` and ``outside`` are addresses of four bytes."""

    def __init__(self, inside: bytes, outside: bytes, *, is_symmetric: bool = False) -> None:
        self._inside, self._outside = inside, outside
        self._is_symmetric = is_symmetric
        self._num_flows = 0
        self._by_own_port: OrderedDict[bytes, _Flow] = OrderedDict()
        self._by_outer_port: dict[bytes, _Flow] = {}
        self.refused = 0
        """Packets from outside that belong to no flow."""

    def outbound(self, packet: bytes, now: float) -> bytes | None:
        """A packet on its way out; None for what this router does not pass."""
        if packet[_SOURCE_AT:_TARGET_AT] != self._inside or not _has_ports(packet):
            return None
        at = _header_bytes(packet)
        own_port = packet[at : at + 2]
        remote = packet[9:10] + packet[16:20] + packet[at + 2 : at + 4]
        flow = self._by_own_port.get(remote + own_port)
        if flow is None:
            flow = self._begin(remote, own_port, now)
        flow.used_at = now
        self._by_own_port.move_to_end(remote + own_port)
        return _changed(packet, _SOURCE_AT, self._outside, at, flow.outer_port)

    def inbound(self, packet: bytes, now: float) -> bytes | None:
        """A packet from outside; None when nobody inside has asked for it."""
        if not _has_ports(packet):
            return None
        at = _header_bytes(packet)
        flow = self._by_outer_port.get(packet[9:10] + packet[12:16] + packet[at : at + 4])
        if flow is None or now - flow.used_at > _IDLE_S[packet[9]]:
            self.refused += 1
            return None
        flow.used_at = now
        return _changed(packet, _TARGET_AT, self._inside, at + 2, flow.own_port)

    def _begin(self, remote: bytes, own_port: bytes, now: float) -> _Flow:
        if len(self._by_own_port) >= _MAX_FLOWS:
            _, oldest = self._by_own_port.popitem(last=False)
            self._by_outer_port.pop(oldest.remote + oldest.outer_port, None)
        outer_port = own_port
        if self._is_symmetric:
            outer_port = (_FIRST_PORT + self._num_flows % _MAX_FLOWS).to_bytes(2, "big")
        self._num_flows += 1
        flow = _Flow(own_port, outer_port, now, remote)
        self._by_own_port[remote + own_port] = self._by_outer_port[remote + outer_port] = flow
        return flow


def _header_bytes(packet: bytes) -> int:
    return 4 * (packet[0] & 15)


def _has_ports(packet: bytes) -> bool:
    """A first or only fragment of TCP or UDP, long enough for what is read and changed."""
    return (
        len(packet) >= 20
        and packet[9] in _CHECKSUM_AT
        and not int.from_bytes(packet[6:8], "big") & _FRAGMENT
        and len(packet) >= _header_bytes(packet) + _CHECKSUM_AT[packet[9]] + 2
    )


def _changed(packet: bytes, address_at: int, address: bytes, port_at: int, port: bytes) -> bytes:
    """The packet with another address and port, its two checksums adjusted (RFC 1624)."""
    changed = bytearray(packet)
    transport_at = _header_bytes(packet) + _CHECKSUM_AT[packet[9]]
    difference = _difference(packet[address_at : address_at + 4], address)
    changed[address_at : address_at + 4] = address
    _adjust(changed, 10, difference)
    if packet[9] == _TCP or any(packet[transport_at : transport_at + 2]):  # UDP may be sent without one
        _adjust(changed, transport_at, difference + _difference(packet[port_at : port_at + 2], port))
    changed[port_at : port_at + 2] = port
    return bytes(changed)


def _difference(old: bytes, new: bytes) -> int:
    """What new bytes in place of old ones add to a sum of 16-bit words; an even number of each."""
    return sum(
        (~int.from_bytes(old[at : at + 2], "big") & 0xFFFF) + int.from_bytes(new[at : at + 2], "big")
        for at in range(0, len(old), 2)
    )


def _adjust(packet: bytearray, at: int, difference: int) -> None:
    total = (~int.from_bytes(packet[at : at + 2], "big") & 0xFFFF) + difference
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    packet[at : at + 2] = (~total & 0xFFFF).to_bytes(2, "big")
