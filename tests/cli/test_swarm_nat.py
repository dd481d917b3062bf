"""The home router, packet by packet: what is asked for comes back, and nothing else gets in."""

from socket import inet_aton

from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.cli.swarm.nat import Router

_INSIDE, _OUTSIDE, _REMOTE = inet_aton("10.78.0.4"), inet_aton("11.77.0.4"), inet_aton("11.77.0.2")
_TCP, _UDP = 6, 17


def _sum(data: bytes) -> int:
    padded = data + bytes(len(data) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _packet(protocol: int, source: tuple[bytes, int], target: tuple[bytes, int], payload: bytes = b"") -> bytes:
    """IPv4 with correct checksums."""
    ports = source[1].to_bytes(2, "big") + target[1].to_bytes(2, "big")
    if protocol == _TCP:
        body, at = ports + bytes(8) + bytes([5 << 4, 2]) + bytes(6) + payload, 16
    else:
        body, at = ports + (8 + len(payload)).to_bytes(2, "big") + bytes(2) + payload, 6
    pseudo = source[0] + target[0] + bytes([0, protocol]) + len(body).to_bytes(2, "big")
    body = body[:at] + (~_sum(pseudo + body) & 0xFFFF).to_bytes(2, "big") + body[at + 2 :]
    header = bytes([0x45, 0]) + (20 + len(body)).to_bytes(2, "big") + bytes([0, 1, 0x40, 0, 64, protocol, 0, 0])
    header += source[0] + target[0]
    return header[:10] + (~_sum(header) & 0xFFFF).to_bytes(2, "big") + header[12:] + body


def _is_sound(packet: bytes) -> bool:
    """Both checksums hold."""
    body = packet[20:]
    pseudo = packet[12:20] + bytes([0, packet[9]]) + len(body).to_bytes(2, "big")
    return _sum(packet[:20]) == 0xFFFF and _sum(pseudo + body) == 0xFFFF


@given(protocol=st.sampled_from([_TCP, _UDP]), port=st.integers(1, 65535), payload=st.binary(max_size=64))
def test_addresses_change_and_checksums_stay_right(protocol: int, port: int, payload: bytes) -> None:
    """There and back: the remote sees the public address, the inside its own, and the port is kept."""
    router = Router(_INSIDE, _OUTSIDE)

    out = router.outbound(_packet(protocol, (_INSIDE, port), (_REMOTE, 443), payload), 0.0)
    back = router.inbound(_packet(protocol, (_REMOTE, 443), (_OUTSIDE, port), payload), 1.0)

    assert out is not None
    assert out[12:16] == _OUTSIDE
    assert out[20:22] == port.to_bytes(2, "big")
    assert _is_sound(out)
    assert back is not None
    assert back[16:20] == _INSIDE
    assert _is_sound(back)


def test_only_what_was_asked_for_gets_in() -> None:
    """Another address, another port of the same one, another port here, another protocol: none of them."""
    router = Router(_INSIDE, _OUTSIDE)
    other = inet_aton("11.77.0.3")
    asked = (_TCP, (_REMOTE, 443), (_OUTSIDE, 1000))
    others = [
        (_TCP, (other, 443), (_OUTSIDE, 1000)),
        (_TCP, (_REMOTE, 444), (_OUTSIDE, 1000)),
        (_TCP, (_REMOTE, 443), (_OUTSIDE, 1001)),
        (_UDP, (_REMOTE, 443), (_OUTSIDE, 1000)),
    ]
    assert router.inbound(_packet(*asked), 0.0) is None

    router.outbound(_packet(_TCP, (_INSIDE, 1000), (_REMOTE, 443)), 0.0)

    assert router.inbound(_packet(*asked), 1.0) is not None
    assert [router.inbound(_packet(*flow), 1.0) for flow in others] == [None] * 4
    assert router.refused == 5


@given(protocol=st.sampled_from([_TCP, _UDP]), port=st.integers(1, 65535), payload=st.binary(max_size=64))
def test_a_symmetric_router_gives_each_flow_a_port_of_its_own(protocol: int, port: int, payload: bytes) -> None:
    """What one remote has seen lets nobody else in, and what comes back finds the port that has sent."""
    router = Router(_INSIDE, _OUTSIDE, is_symmetric=True)
    others = inet_aton("11.77.0.3")

    first = router.outbound(_packet(protocol, (_INSIDE, port), (_REMOTE, 443), payload), 0.0)
    again = router.outbound(_packet(protocol, (_INSIDE, port), (_REMOTE, 443), payload), 1.0)
    other = router.outbound(_packet(protocol, (_INSIDE, port), (others, 443), payload), 2.0)

    assert first is not None
    assert first == again
    assert other is not None
    seen, seen_by_other = (int.from_bytes(packet[20:22], "big") for packet in (first, other))
    assert seen != seen_by_other
    assert _is_sound(first)
    assert _is_sound(other)
    back = router.inbound(_packet(protocol, (_REMOTE, 443), (_OUTSIDE, seen), payload), 3.0)
    assert back is not None
    assert back[16:20] + back[22:24] == _INSIDE + port.to_bytes(2, "big")
    assert _is_sound(back)
    assert router.inbound(_packet(protocol, (others, 443), (_OUTSIDE, seen), payload), 4.0) is None


def test_a_router_that_is_full_forgets_the_flow_that_nobody_has_used_for_longest() -> None:
    """The table is bounded, in both directions."""
    router = Router(_INSIDE, _OUTSIDE, is_symmetric=True)

    def flow(number: int) -> tuple[tuple[bytes, int], tuple[bytes, int]]:
        return (_INSIDE, 1000 + number % 50_000), (_REMOTE, 443)

    for number in range(16_384):
        assert router.outbound(_packet(_UDP, *flow(number)), 0.0) is not None
    out = router.outbound(_packet(_UDP, *flow(16_384)), 0.0)
    assert out is not None
    assert router.inbound(_packet(_UDP, (_REMOTE, 443), (_OUTSIDE, 32_769)), 0.0) is not None
    newest = int.from_bytes(out[20:22], "big")
    back = router.inbound(_packet(_UDP, (_REMOTE, 443), (_OUTSIDE, newest)), 0.0)
    assert back is not None
    assert back[22:24] == (1000 + 16_384).to_bytes(2, "big")


def test_flows_are_forgotten_when_nobody_uses_them() -> None:
    """UDP after half a minute, TCP after two hours; a packet either way keeps one alive."""
    router = Router(_INSIDE, _OUTSIDE)
    for protocol in (_TCP, _UDP):
        router.outbound(_packet(protocol, (_INSIDE, 1000), (_REMOTE, 443)), 0.0)
    back = {protocol: _packet(protocol, (_REMOTE, 443), (_OUTSIDE, 1000)) for protocol in (_TCP, _UDP)}

    assert router.inbound(back[_UDP], 29.0) is not None
    assert router.inbound(back[_UDP], 58.0) is not None
    assert router.inbound(back[_UDP], 100.0) is None
    assert router.inbound(back[_TCP], 7000.0) is not None
    assert router.inbound(back[_TCP], 15000.0) is None


@given(data=st.binary(max_size=80))
def test_any_bytes_pass_or_do_not_and_never_fail(data: bytes) -> None:
    """Packets come from nodes, and nodes run whatever they run."""
    router = Router(_INSIDE, _OUTSIDE)
    router.outbound(data, 0.0)
    router.inbound(data, 0.0)


def test_foreign_sources_and_other_protocols_do_not_get_out() -> None:
    router = Router(_INSIDE, _OUTSIDE)

    assert router.outbound(_packet(_TCP, (_REMOTE, 1), (_REMOTE, 2)), 0.0) is None
    ping = bytearray(_packet(_UDP, (_INSIDE, 1), (_REMOTE, 2)))
    ping[9] = 1
    assert router.outbound(bytes(ping), 0.0) is None
