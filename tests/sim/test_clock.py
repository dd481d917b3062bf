"""Virtual time."""

from lowcomm_node.sim.clock import VirtualClock


def test_actions_run_in_the_order_of_their_times_and_of_their_arrival() -> None:
    """Equal times keep the order in which they were asked for: otherwise no history could be repeated."""
    clock = VirtualClock()
    seen: list[tuple[str, float]] = []
    for name, delay_s in (("late", 2.0), ("first", 1.0), ("second", 1.0)):
        clock.at(delay_s, lambda name=name: seen.append((name, clock.now)))  # type: ignore[misc]

    clock.run(1.5)

    assert seen == [("first", 1.0), ("second", 1.0)]
    assert clock.now == 1.5
    clock.run(3.0)
    assert seen[-1] == ("late", 2.0)


def test_a_condition_stops_before_anything_follows_from_it() -> None:
    """The swarm can be looked at, or hurt, at the very instant at which something has become true."""
    clock = VirtualClock()
    seen: list[float] = []

    def act() -> None:
        seen.append(clock.now)
        clock.at(0.0, act)

    clock.at(1.0, act)
    clock.run_until(lambda: bool(seen), 10.0)

    assert seen == [1.0]
    assert len(clock) == 1
