"""Emulated lines on a virtual clock: rate, queue, delay, jitter and loss as they were ordered."""

from math import inf

import pytest

from lowcomm_node.cli.swarm.lines import Internet, LineShape, parse_line
from lowcomm_node.errors import ConfigError

_PACKET = bytes(1250)
"""10 kbit."""
_SLACK = 1e-9


def _line(**changes: float) -> LineShape:
    return LineShape(**{"down_mbit": 10.0, "up_mbit": 10.0, **changes})


def _all_arrivals(internet: Internet, until: float) -> list[tuple[float, int, bytes]]:
    """When which node gets what."""
    arrivals = []
    while (at := internet.next_at) <= until:
        arrivals += [(at, number, packet) for number, packet in internet.due(at)]
    return arrivals


def test_a_packet_takes_half_a_round_trip_and_its_own_time_on_both_lines() -> None:
    """1 ms on either line at 10 Mbit/s, and 50 ms of the 100 ms round trip between; nothing else happens."""
    internet = Internet([_line(round_trip_ms=100.0), _line(round_trip_ms=100.0)], seed=0)

    internet.send(0, 1, _PACKET, now=5.0)

    assert internet.next_at == pytest.approx(5.051)
    assert internet.due(5.05) == []
    ((at, number, packet),) = _all_arrivals(internet, 10.0)
    assert (number, packet) == (1, _PACKET)
    assert at == pytest.approx(5.052)
    assert internet.next_at == inf


def test_lines_of_different_length_meet_half_way() -> None:
    """The round trip between two nodes is the mean of what their lines say."""
    internet = Internet([_line(round_trip_ms=20.0), _line(round_trip_ms=180.0)], seed=0)

    internet.send(0, 1, b"x", now=0.0)
    internet.send(1, 0, b"y", now=0.0)

    assert [at for at, _, _ in _all_arrivals(internet, 10.0)] == [pytest.approx(0.05, abs=1e-5)] * 2


@pytest.mark.parametrize("slow", ["up_mbit", "down_mbit"])
def test_the_slower_of_two_lines_is_the_rate(slow: str) -> None:
    """Of a second's worth of packets none is lost, and they come at the rate, whichever end is slow."""
    sender = _line(up_mbit=1.0 if slow == "up_mbit" else 10.0, queue_ms=1e6)
    receiver = _line(down_mbit=1.0 if slow == "down_mbit" else 10.0, queue_ms=1e6)
    internet = Internet([sender, receiver], seed=0)

    for _ in range(101):
        internet.send(0, 1, _PACKET, now=0.0)
    arrivals = [at for at, _, _ in _all_arrivals(internet, 100.0)]

    assert len(arrivals) == 101
    assert arrivals[-1] - arrivals[0] == pytest.approx(1.0)


def test_a_full_queue_drops_and_nothing_waits_longer() -> None:
    """A little over 200 ms of 10 Mbit/s are 200 packets of 1 ms behind the one that is being sent."""
    internet = Internet([_line(queue_ms=200.5), _line()], seed=0)

    for _ in range(500):
        internet.send(0, 1, _PACKET, now=0.0)
    arrivals = _all_arrivals(internet, 100.0)

    assert len(arrivals) == 201
    assert arrivals[-1][0] <= 0.202 + _SLACK
    assert internet.traffic(0).dropped == 299
    assert internet.traffic(1).received_bytes == 201 * len(_PACKET)


def test_two_senders_share_the_line_of_the_one_they_send_to() -> None:
    """Each has a line of its own; the receiver's is the narrow place."""
    internet = Internet([_line(), _line(), _line(queue_ms=1e6)], seed=0)

    for _ in range(100):
        internet.send(0, 2, b"a" * 1250, now=0.0)
        internet.send(1, 2, b"b" * 1250, now=0.0)
    arrivals = _all_arrivals(internet, 10.0)

    assert arrivals[-1][0] - arrivals[0][0] == pytest.approx(0.199)
    assert {packet[:1] for _, _, packet in arrivals[:20]} == {b"a", b"b"}


def test_the_seed_decides_what_is_lost() -> None:
    """About the share that was ordered; the same packets for the same seed, others for another."""

    def lost(seed: int) -> list[int]:
        internet = Internet([_line(loss=0.1), _line()], seed=seed)
        arrived = []
        for index in range(2000):
            internet.send(0, 1, index.to_bytes(2, "big"), now=float(index))
            arrived += [int.from_bytes(packet, "big") for _, _, packet in _all_arrivals(internet, index + 0.9)]
        missing = sorted(set(range(2000)) - set(arrived))
        assert internet.traffic(0).lost == len(missing)
        return missing

    assert lost(1) == lost(1) != lost(2)
    assert 130 <= len(lost(1)) <= 270


def test_jitter_delays_and_keeps_the_order() -> None:
    """Up to the jitter later than without, not all alike, and as they were sent."""
    internet = Internet([_line(jitter_ms=30.0), _line()], seed=3)

    for index in range(100):
        internet.send(0, 1, bytes([index]), now=index * 0.001)
    arrivals = _all_arrivals(internet, 10.0)

    assert [packet[0] for _, _, packet in arrivals] == list(range(100))
    late = [at - index * 0.001 for index, (at, _, _) in enumerate(arrivals)]
    assert 0.02 < max(late) <= 0.031
    assert min(late) < max(late)


def test_cut_lines_and_lost_pairs_heal() -> None:
    """What is sent meanwhile is gone; others are not concerned."""
    internet = Internet([_line(), _line(), _line()], seed=0)

    def reached(now: float) -> set[tuple[int, int]]:
        for source, target in ((0, 1), (1, 0), (0, 2), (2, 1)):
            internet.send(source, target, bytes([source]), now)
        return {(packet[0], number) for _, number, packet in _all_arrivals(internet, now + 1)}

    everybody = {(0, 1), (1, 0), (0, 2), (2, 1)}
    assert reached(0.0) == everybody
    internet.cut(1, is_cut=True)
    assert reached(10.0) == {(0, 2)}
    internet.cut(1, is_cut=False)
    internet.lose(0, 1, is_lost=True)
    assert reached(20.0) == everybody - {(0, 1)}
    internet.lose(0, 1, is_lost=False)
    assert reached(30.0) == everybody


def test_lines_are_read_as_people_write_them() -> None:
    """Rate, round trip and loss; down and up apart; jitter."""
    assert parse_line("20mbit") == LineShape(down_mbit=20.0, up_mbit=20.0)
    assert parse_line("20mbit, 100ms, 1%") == LineShape(down_mbit=20.0, up_mbit=20.0, round_trip_ms=100.0, loss=0.01)
    assert parse_line("50/10Mbit,40ms~5ms") == LineShape(
        down_mbit=50.0, up_mbit=10.0, round_trip_ms=40.0, jitter_ms=5.0
    )


@pytest.mark.parametrize(
    "text",
    ["", "fast", "20", "20mbit,1%", "20mbit,100ms,100%", "20mbit,100ms,1%,x", "0mbit", "9999mbit", "1mbit,9000ms"],
)
def test_what_is_no_line_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="--line"):
        parse_line(text)
