"""A home router as arithmetic: one node behind one public address, and nothing gets in that was not asked for.

What Linux's MASQUERADE does for a single host: ports are kept, the public address takes the place of the private one, and an
incoming packet must belong to a flow that the inside has begun, with exactly this remote address and port.
"""

from collections import OrderedDict

__all__ = ["Router"]

_TCP, _UDP = 6, 17
_CHECKSUM_AT = {_TCP: 16, _UDP: 6}
_IDLE_S = {_TCP: 7440.0, _UDP: 30.0}
"""How long a flow is remembered: what RFC 5382 asks for of TCP, and what routers usually do for UDP."""
_MAX_FLOWS = 16_384
_SOURCE_AT, _TARGET_AT = 12, 16
_FRAGMENT = 0x1FFF


class Router:
    """Rewrites IPv4 packets in both directions. ``inside`` and ``outside`` are addresses of four bytes."""

    def __init__(self, inside: bytes, outside: bytes) -> None:
        self._inside, self._outside = inside, outside
        self._flows: OrderedDict[bytes, float] = OrderedDict()
        self.refused = 0
        """Packets from outside that belong to no flow."""

    def outbound(self, packet: bytes, now: float) -> bytes | None:
        """A packet on its way out; None for what this router does not pass."""
        if packet[_SOURCE_AT:_TARGET_AT] != self._inside or not _has_ports(packet):
            return None
        at = _header_bytes(packet)
        # protocol, remote address, remote port, own port
        flow = packet[9:10] + packet[16:20] + packet[at + 2 : at + 4] + packet[at : at + 2]
        self._flows[flow] = now
        self._flows.move_to_end(flow)
        if len(self._flows) > _MAX_FLOWS:
            self._flows.popitem(last=False)
        return _with_address(packet, _SOURCE_AT, self._outside)

    def inbound(self, packet: bytes, now: float) -> bytes | None:
        """A packet from outside; None when nobody inside has asked for it."""
        if not _has_ports(packet):
            return None
        at = _header_bytes(packet)
        flow = packet[9:10] + packet[12:16] + packet[at : at + 4]
        used_at = self._flows.get(flow)
        if used_at is None or now - used_at > _IDLE_S[packet[9]]:
            self.refused += 1
            return None
        self._flows[flow] = now
        return _with_address(packet, _TARGET_AT, self._inside)


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


def _with_address(packet: bytes, at: int, address: bytes) -> bytes:
    """The packet with another address, its two checksums adjusted (RFC 1624)."""
    changed = bytearray(packet)
    old, changed[at : at + 4] = packet[at : at + 4], address
    transport_at = _header_bytes(packet) + _CHECKSUM_AT[packet[9]]
    for checksum_at in (10, transport_at):
        before = int.from_bytes(packet[checksum_at : checksum_at + 2], "big")
        if checksum_at == transport_at and packet[9] == _UDP and not before:
            continue  # sent without one
        total = ~before & 0xFFFF
        for part in (0, 2):
            total += (~int.from_bytes(old[part : part + 2], "big") & 0xFFFF) + int.from_bytes(
                address[part : part + 2], "big"
            )
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        changed[checksum_at : checksum_at + 2] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(changed)
