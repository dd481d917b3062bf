"""When nodes of a swarm die and join."""

from lowcomm_node.cli.swarm.timeline import Timeline


def _victims(timeline: Timeline, until_s: int) -> list[tuple[int, str]]:
    dues = [(t, timeline.due(elapsed_s=t, share_done=t / 100, candidates=["n2", "n1", "n3"])) for t in range(until_s)]
    return [(t, due.victim) for t, due in dues if due.victim is not None]


def test_kills_come_in_time_and_stop_before_the_end() -> None:
    """One kill each ten seconds, none in the last 15 % of the run."""
    killed = _victims(Timeline(kill_every_s=10, join_late=0, seed=1), 100)

    assert [t for t, _ in killed] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert {name for _, name in killed} <= {"n1", "n2", "n3"}
    assert len({name for _, name in killed}) > 1


def test_equal_seeds_kill_equally() -> None:
    """The choice hangs on seed and count alone, not on the order of the candidates."""
    first = _victims(Timeline(kill_every_s=10, join_late=0, seed=5), 90)

    assert first == _victims(Timeline(kill_every_s=10, join_late=0, seed=5), 90)
    assert first != _victims(Timeline(kill_every_s=10, join_late=0, seed=6), 90)


def test_a_kill_without_candidates_is_skipped() -> None:
    """It is not made up for: two kills at once are another experiment."""
    timeline = Timeline(kill_every_s=10, join_late=0, seed=1)

    assert timeline.due(elapsed_s=10, share_done=0.1, candidates=[]).victim is None
    assert timeline.due(elapsed_s=11, share_done=0.11, candidates=["n1"]).victim is None
    assert timeline.due(elapsed_s=35, share_done=0.35, candidates=["n1"]).victim == "n1"
    assert timeline.due(elapsed_s=36, share_done=0.36, candidates=["n1"]).victim is None


def test_late_nodes_come_in_the_middle_each_once() -> None:
    """Two late nodes: at three and five tenths of the run; a late look brings what was missed."""
    timeline = Timeline(kill_every_s=0, join_late=2, seed=1)
    joins = [
        share / 100 for share in range(100) if timeline.due(elapsed_s=0, share_done=share / 100, candidates=()).joiners
    ]

    assert joins == [0.3, 0.5]
    assert Timeline(kill_every_s=0, join_late=3, seed=1).due(elapsed_s=9, share_done=0.95, candidates=()).joiners == 3


def test_without_trouble_nothing_is_due() -> None:
    """Zero seconds is never, zero late nodes is none."""
    timeline = Timeline(kill_every_s=0, join_late=0, seed=1)

    assert timeline.due(elapsed_s=1e6, share_done=0.5, candidates=["n1"]) == timeline.due(
        elapsed_s=0, share_done=0, candidates=()
    )
