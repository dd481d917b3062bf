"""Who was away when in a troubled swarm, for an undisturbed one whose nodes leave and come back in order: a pure decision, no clock of its own.

What a swarm learns depends on who is there. With the same attendance in order, what is left between the two is what trouble costs.
"""

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lowcomm_node.cli.swarm.chaos import Fault
from lowcomm_node.cli.swarm.chaos_report import BlowReport

__all__ = ["Absence", "Attendance", "absences"]

_STARTED_AGAIN = frozenset({Fault.KILL, Fault.STRAND})
_AWAY = _STARTED_AGAIN | {
    Fault.KILL_TRAINER,
    Fault.FREEZE,
    Fault.FREEZE_DAEMON,
    Fault.FREEZE_TRAINER,
    Fault.CUT_LINE,
    Fault.SLEEP,
}
"""Faults that keep a node from training or from everybody."""
_USUAL_START_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """A node leaves, and is started again. Seconds, ``from_s`` since the first node's first step."""

    node: str
    from_s: float
    return_after_s: float | None
    """From leaving to the new start, so that it trains again when the troubled node did; None: it stays away."""


def absences(blows: Sequence[BlowReport]) -> list[Absence]:
    """What the faults of a run come to, in the order of time.

    An absence that was shorter than a start takes cannot be had in order, and is left out: the swarm that is compared with is
    better off by it.
    """
    starts = [blow.steps_after_s for blow in blows if blow.fault in _STARTED_AGAIN and blow.steps_after_s is not None]
    start_s = statistics.median(starts) if starts else _USUAL_START_S
    found = []
    for blow in sorted(blows, key=lambda blow: blow.at_s):
        if blow.fault == Fault.END_FIRST:
            found.append(Absence(node=blow.node, from_s=blow.at_s, return_after_s=None))
        elif blow.fault in _AWAY and blow.lasted_s is not None and blow.steps_after_s is not None:
            return_after_s = blow.lasted_s + blow.steps_after_s - start_s
            if return_after_s >= 0:
                found.append(Absence(node=blow.node, from_s=blow.at_s, return_after_s=return_after_s))
    return found


class Attendance:
    """Answers: who is to leave at this moment?

    The caller asks in the order of time and carries out what it is told.
    """

    def __init__(self, absences: Sequence[Absence]) -> None:
        self._to_come = list(absences)

    def due(self, *, elapsed_s: float, training: Collection[str]) -> list[Absence]:
        """Absences that begin by ``elapsed_s``, of nodes in ``training``; another waits until its node is."""
        due: list[Absence] = []
        for absence in self._to_come:
            if absence.from_s <= elapsed_s and absence.node in training and all(a.node != absence.node for a in due):
                due.append(absence)
        self._to_come = [absence for absence in self._to_come if absence not in due]
        return due
