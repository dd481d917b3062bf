"""The modelled network."""

import dataclasses
from random import Random

import pytest

from lowcomm_node.sim.lines import Lines
from lowcomm_node.sim.link import virtual_peer
from lowcomm_node.sim.profiles import Nat
from lowcomm_node.sim.scenario import Scenario
from lowcomm_node.units import Reachability

_A, _B, _C = (virtual_peer(index) for index in range(3))


def lines_of(network: str = "loopback", **changes: float) -> Lines:
    lines = Lines(Scenario(network=network, **changes), Random(1), lambda _a, _b: False, 1)  # type: ignore[arg-type]
    for peer in (_A, _B, _C):
        lines.add(peer)
    return lines


def arrival_s(lines: Lines, num_bytes: int, now: float = 0.0, *, is_first: bool = False) -> float:
    ((delay_s, _),) = lines.ship(_A, _B, [], num_bytes, now, is_first=is_first).arrivals
    return delay_s


def test_a_message_takes_its_bytes_over_the_rate_and_the_way() -> None:
    """Latency once, the hand-shake of a new connection, and a second message waits for the uplink."""
    lines = lines_of("datacentre", latency_s=0.1, bytes_per_s=1000.0)

    assert arrival_s(lines, 500) == pytest.approx(0.5 + 0.1)
    assert arrival_s(lines, 500) == pytest.approx(0.5 + 0.5 + 0.1)
    assert arrival_s(lines, 1000, now=10.0, is_first=True) == pytest.approx(2 * 2 * 0.1 + 1.0 + 0.1)


def test_a_connection_is_kept_for_a_minute() -> None:
    """Only who dials for the first time, or after a long time, or the other way round waits for the hand-shake."""
    lines = lines_of("datacentre", latency_s=0.1, bytes_per_s=1000.0)

    dials = {now: arrival_s(lines, 1000, now=now, is_first=True) for now in (0.0, 50.0, 100.0, 161.0)}
    ((back_s, _),) = lines.ship(_B, _A, [], 1000, 170.0, is_first=True).arrivals

    assert dials == pytest.approx({0.0: 1.5, 50.0: 1.1, 100.0: 1.1, 161.0: 1.5})
    assert back_s == pytest.approx(1.5)


def test_on_loopback_the_kernel_does_half_of_the_hand_shake() -> None:
    """Where latency is that of processes, TCP's round trip costs none of it."""
    lines = lines_of("loopback", latency_s=0.1, bytes_per_s=1000.0)

    assert arrival_s(lines, 1000, is_first=True) == pytest.approx(2 * 0.1 + 1.0 + 0.1)


def test_routers_decide_who_dials_whom_and_where_holes_are_punched() -> None:
    """Open ends can be dialled; two cones get through to each other, a symmetric one to open nodes alone."""
    lines = lines_of()
    dialled, punched = set(), set()
    for a in Nat:
        for b in Nat:
            lines[_A].nat, lines[_B].nat = a, b
            if lines.dial(_A, _B, 0.0) is None:
                dialled.add((a, b))
            if lines.can_punch(_A, _B, 0.0):
                punched.add((a, b))
            assert (lines.reachability(_B) is Reachability.PUBLIC) == (b is Nat.OPEN)

    assert dialled == {(a, Nat.OPEN) for a in Nat}
    assert {(a, b) for a in Nat for b in Nat} - punched == {
        (Nat.CONE, Nat.SYMMETRIC), (Nat.SYMMETRIC, Nat.CONE), (Nat.SYMMETRIC, Nat.SYMMETRIC),
    }  # fmt: skip


def test_loss_bounds_a_connection_s_rate() -> None:
    """Mathis: a fast line that loses one packet in a thousand over 60 ms carries a few Mbit/s, not a thousand."""
    lines = lines_of("home", latency_s=0.03, bytes_per_s=1e9)

    assert 1e5 < lines.rate(_A, _B) < 2e6


def test_nobody_hears_a_machine_that_is_gone() -> None:
    """Messages to it vanish; dials end after a while."""
    lines = lines_of()
    lines.remove(_B)

    assert lines.ship(_A, _B, [], 10, 0.0, is_first=False).arrivals == ()
    assert lines.dial(_A, _B, 0.0) is not None


def test_scenarios_are_frozen() -> None:
    """What defines a run cannot change under way."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Scenario().nodes = 3  # type: ignore[misc]
