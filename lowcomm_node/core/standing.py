"""How much does a node count in a meeting? One that has just taken over a donor's state, or has slept, counts little at first.

Each node has a weight a in (0, 1]. Where i and j meet, both know the same correction C of their difference, and move by

    i: -w * 2 a_j / (a_i + a_j) * C        j: +w * 2 a_i / (a_i + a_j) * C

so that a_i M_i + a_j M_j is untouched, and the difference shrinks as with equal weights: who counts less moves more. With
a = 1 on both ends these are -w and +w. ``docs/decisions/0007-joiners-count-less-at-first.md`` says why.
"""

__all__ = ["ASLEEP_PERIODS", "PROBATION_MEETINGS", "share", "weight_after", "weight_after_sleep"]

PROBATION_MEETINGS = 4
"""Meetings after which a joiner counts as everybody does."""

ASLEEP_PERIODS = 4
"""Periods K of the parameters without a step after which a node counts little."""


def weight_after(num_meetings: int) -> float:
    """a of a node that has applied so many corrections since it took over a donor's state: 0.2, 0.4, 0.6, 0.8, 1, 1, ..."""
    return min(1.0, (num_meetings + 1) / (PROBATION_MEETINGS + 1))


def weight_after_sleep(num_periods: float) -> float:
    """a of a node that has stood still for so many periods, ASLEEP_PERIODS or more: 1/5 after 4, 1/100 after 99.

    The longer, the less its weights have to do with those of the others, and the less the others are to be dragged back by it, in weights
    and in progress. Where all have slept alike they count alike.
    """
    return 1 / (1 + num_periods)


def share(own: float, partner: float) -> float:
    """By how much of w an end with weight ``own`` moves; in (0, 2), and 2 together with the partner's."""
    return 2 * partner / (own + partner)
