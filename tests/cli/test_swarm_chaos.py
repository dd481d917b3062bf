"""Which fault hits whom and when: the decision behind ``swarm --chaos``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from lowcomm_node.cli.swarm.chaos import Blow, Chaos, Fault

NODES = ("n0", "n1", "n2", "n3", "n4")
ALL: Mapping[Fault, Sequence[str]] = {fault: list(NODES[1:]) for fault in Fault if fault is not Fault.END_FIRST}


def _blows(
    chaos: Chaos,
    *,
    until_s: int = 400,
    victims: Mapping[Fault, Sequence[str]] = ALL,
    healthy: Sequence[str] = NODES,
) -> list[tuple[int, Blow]]:
    dues = (
        (second, chaos.due(elapsed_s=second, share_done=second / 400, victims=victims, healthy=healthy))
        for second in range(until_s)
    )
    return [(second, blow) for second, blow in dues if blow is not None]


def test_equal_seeds_strike_equally() -> None:
    """Kinds, victims, durations and times hang on the seed alone."""
    first = _blows(Chaos(every_s=5, record_ttl_s=10, seed=3))

    assert first == _blows(Chaos(every_s=5, record_ttl_s=10, seed=3))
    assert first != _blows(Chaos(every_s=5, record_ttl_s=10, seed=4))


def test_blows_keep_their_distance_and_spare_the_end() -> None:
    """Every five seconds on average, and none in the last 15 % of the run."""
    times = [second for second, _ in _blows(Chaos(every_s=5, record_ttl_s=10, seed=1))]
    gaps = [later - earlier for earlier, later in pairwise(times)]

    assert min(gaps) >= 2
    assert max(gaps) <= 9
    assert 4.5 < sum(gaps) / len(gaps) < 6.5
    assert 300 < times[-1] < 340


def test_each_kind_comes_once_before_one_comes_again() -> None:
    """A short run sees as many kinds as it can."""
    faults = [blow.fault for _, blow in _blows(Chaos(every_s=5, record_ttl_s=10, seed=2))]

    assert set(faults[: len(ALL)]) == set(ALL)
    assert set(faults[len(ALL) : 2 * len(ALL)]) == set(ALL)


def test_the_first_node_dies_once_a_fifth_is_over() -> None:
    """For good, so never again; the caller names no victim any more."""
    chaos = Chaos(every_s=5, record_ttl_s=10, seed=2)
    with_first = {**ALL, Fault.END_FIRST: ["n0"]}
    before = _blows(chaos, until_s=80, victims=with_first)
    first = chaos.due(elapsed_s=95, share_done=0.24, victims=with_first, healthy=NODES)
    after = chaos.due(elapsed_s=110, share_done=0.27, victims=ALL, healthy=NODES[1:])

    assert Fault.END_FIRST not in [blow.fault for _, blow in before]
    assert first == Blow(fault=Fault.END_FIRST, node="n0")
    assert after is not None
    assert after.fault is not Fault.END_FIRST


def test_what_is_impossible_is_passed_over() -> None:
    """Without root there are no cut lines; the other kinds come as often as each other."""
    possible = {Fault.KILL: ["n1"], Fault.FREEZE: ["n1", "n2"], Fault.CUT_LINE: []}
    counts = Counter(blow.fault for _, blow in _blows(Chaos(every_s=5, record_ttl_s=10, seed=2), victims=possible))

    assert set(counts) == {Fault.KILL, Fault.FREEZE}
    assert abs(counts[Fault.KILL] - counts[Fault.FREEZE]) <= 1


def test_two_nodes_are_left_in_peace_and_the_blow_waits() -> None:
    """With two healthy nodes nothing happens; the blow comes as soon as there is a third."""
    chaos = Chaos(every_s=5, record_ttl_s=10, seed=2)

    assert _blows(chaos, until_s=100, healthy=("n1", "n2")) == []
    assert chaos.due(elapsed_s=100, share_done=0.1, victims=ALL, healthy=("n1", "n2", "n3")) is not None


def test_durations_fit_the_kind() -> None:
    """A sleeper is away for longer than its record lives; a kill lasts no time; a cut pair is two nodes."""
    blows = [blow for _, blow in _blows(Chaos(every_s=2, record_ttl_s=30, seed=5))]
    by_fault = {fault: [blow for blow in blows if blow.fault is fault] for fault in Fault}

    assert all(30 < blow.seconds < 40 for blow in by_fault[Fault.SLEEP] + by_fault[Fault.STRAND])
    assert all(blow.seconds == 0 for blow in by_fault[Fault.KILL] + by_fault[Fault.KILL_P2PD])
    assert all(3 <= blow.seconds <= 12 for blow in by_fault[Fault.FREEZE])
    assert all(blow.other and blow.other != blow.node for blow in by_fault[Fault.CUT_PAIR])
    assert not any(blow.other for blow in blows if blow.fault is not Fault.CUT_PAIR)
