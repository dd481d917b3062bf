"""How far the members of a swarm lie apart, from sketches of their weights that they made at marks of swarm progress.

Marks (``core.progress.mark_of``) may follow one another in a fraction of a second or in an hour, and what one member knows of
another is some seconds old. So each keeps, besides the sketch of the newest mark, those of the newest coarse ones: whatever
the pace, marks of one of these grids lie further apart than news is old, and nearly all have their sketch of the same one.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["MOST_SKETCHES", "MarkedSketch", "kept", "spread_of"]

_GRIDS = (1, 16, 256)
"""A member keeps the newest sketch whose mark is a multiple of each."""
MOST_SKETCHES = len(_GRIDS)
_FEWEST = 2


class MarkedSketch(NamedTuple):
    """Count sketch of a member's parameters (``algo.consensus.count_sketch``), made when its progress had just passed a mark."""

    mark: int
    sums: tuple[float, ...]


def kept(before: Sequence[MarkedSketch], new: MarkedSketch) -> tuple[MarkedSketch, ...]:
    """What a member keeps of its sketches when it has made another: of each grid the newest, in order of their age."""
    newest: dict[int, MarkedSketch] = {}
    for sketch in (new, *before):
        for grid in _GRIDS:
            if sketch.mark % grid == 0:
                newest.setdefault(grid, sketch)
    return tuple(dict.fromkeys(newest[grid] for grid in _GRIDS if grid in newest))


def spread_of(told: Iterable[Sequence[MarkedSketch]], parameters: int) -> float:
    """Root mean square distance of a weight from the swarm's mean (``algo.consensus.spread``) over all members that tell sketches.

    ``told``: those of each member, all of one length. They are compared at one mark: the newest at which half of the members
    have one, or else the one with most members, of several the newest; 0.0 where fewer than two have one in common. In its
    square the estimate is unbiased: over the hash that makes sketches, and over which n of the N members have passed the
    mark, whence n - 1 and (N - 1) / N.
    """
    members = 0
    by_mark: dict[int, list[tuple[float, ...]]] = {}
    for sketches in told:
        members += bool(sketches)
        for mark, sums in dict(reversed(sketches)).items():  # of several of one mark the newest
            by_mark.setdefault(mark, []).append(sums)
    enough = max(_FEWEST, members / 2)
    alike = max(by_mark.items(), key=lambda item: (min(len(item[1]), enough), item[0]), default=(0, []))[1]
    if len(alike) < _FEWEST or not parameters:
        return 0.0
    squared = 0.0
    for sums in zip(*alike, strict=True):
        mean = sum(sums) / len(sums)
        squared += sum((value - mean) ** 2 for value in sums)
    return float((squared * (members - 1) / members / ((len(alike) - 1) * parameters)) ** 0.5)
