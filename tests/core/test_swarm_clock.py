"""How far our clock is from the others': nobody can say it alone, and what is old does not count."""

import math

from lowcomm_node.core.swarm_clock import SwarmClock
from lowcomm_node.units import PeerId


def _heard(clock: SwarmClock, now: float, **ahead_s: float) -> None:
    for name, seconds in ahead_s.items():
        clock.heard(PeerId(name), seconds, now)


def test_it_is_the_median_of_the_newest_of_each() -> None:
    """A liar among three moves nothing; what a peer said before is forgotten when it says something else."""
    clock = SwarmClock()
    assert math.isnan(clock.ahead_s(0.0))

    _heard(clock, 1.0, a=0.1, b=-0.2, liar=1e8)
    assert clock.ahead_s(2.0) == 0.1
    _heard(clock, 3.0, a=5.0, b=5.2)
    assert clock.ahead_s(3.0) == 5.2


def test_old_measurements_do_not_count() -> None:
    """A clock that was set since is not judged by them."""
    clock = SwarmClock(keep_s=10.0)
    _heard(clock, 0.0, a=9.0, b=9.0)
    _heard(clock, 8.0, c=0.0)

    assert clock.ahead_s(9.0) == 9.0
    assert clock.ahead_s(12.0) == 0.0
    assert math.isnan(clock.ahead_s(30.0))


def test_it_is_bounded() -> None:
    """Of many peers those heard last are kept."""
    clock = SwarmClock(max_peers=3)
    _heard(clock, 0.0, **{f"p{number}": float(number) for number in range(100)})

    assert clock.ahead_s(0.0) == 98.0
