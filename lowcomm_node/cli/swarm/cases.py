"""What became of each blow: did the node take a step again, did it meet again, what work was lost? Bookkeeping only."""

from dataclasses import dataclass, field

from lowcomm_node.cli.swarm.chaos import DEADLY, Blow, Fault
from lowcomm_node.cli.swarm.lives import Status

__all__ = ["Case", "Pulse"]

_TRAINS_ON = frozenset({Fault.KILL_P2PD, Fault.FREEZE_P2PD, Fault.CUT_LINE, Fault.CUT_PAIR, Fault.FULL_DISK})
"""Faults that have to leave training alone: it needs neither network nor disk."""
_LONG_ENOUGH_S = 5.0
"""A shorter fault may fall between two looks at a slow trainer."""


@dataclass(slots=True)
class Pulse:
    """Signs of life of one node, over all its lives. Times are seconds on the swarm's clock."""

    tokens: int = 0
    steps: int = 0
    completed: int = 0
    """Meetings of the present process."""
    steps_when_met: int = 0
    """Own steps at its last completed meeting: what it did until then lives on in its partners."""
    stepped_s: float = 0.0

    def feel(self, status: Status, now_s: float) -> None:
        """Take in a status."""
        training = status.training
        if training.tokens != self.tokens:
            self.stepped_s = now_s
        self.tokens, self.steps = training.tokens, training.steps
        completed = status.meetings.completed
        if completed > self.completed or 0 < completed < self.completed:
            ago_s, step_s = status.meetings.last_meeting_ago_seconds, training.step_seconds
            since = int(ago_s / step_s) if ago_s > 0 and step_s > 0 else 0
            self.steps_when_met = max(0, self.steps - since)
        elif self.steps < self.steps_when_met:
            self.steps_when_met = 0  # a new life that counts anew
        self.completed = completed


@dataclass(slots=True, kw_only=True)
class Case:
    """One blow and what followed. Times are seconds on the swarm's clock."""

    blow: Blow
    subject: str
    """Whose signs of life count: the node that was hit, or a witness when that one is not to come back."""
    began_s: float
    before: Pulse
    """As it was last seen before the blow."""
    log_from: int = 0
    """Size of the node's log when it was hit."""
    ended_s: float | None = None
    """The trouble itself is over: thawed, mended, room again, processes started again."""
    trained_s: float | None = None
    """A step was seen after the end."""
    met_s: float | None = None
    """A meeting was completed after the end."""
    trained_through: bool | None = None
    """Training went on during the fault; None where that is not asked, or was too short to tell."""
    lost_steps: int | None = None
    """Own steps whose work was lost; None for faults that kill no trainer."""
    came_back_with: str = ""
    """own state or donor; empty where no trainer came back."""
    _first: Status | None = field(default=None)
    _is_settled: bool = False

    @property
    def is_open(self) -> bool:
        """The node has still to come back."""
        return not self._is_settled

    @property
    def is_under_way(self) -> bool:
        """The trouble itself is not over."""
        return self.ended_s is None

    @property
    def is_over_at_s(self) -> float:
        """When a fault that lasts is to end."""
        return self.began_s + self.blow.seconds

    def end(self, now_s: float) -> None:
        """The trouble is over; from now on signs of life count."""
        self.ended_s = now_s

    def observe(self, status: Status, now_s: float, log: str) -> None:
        """Take in a status of the node after the end; ``log`` is what the node has logged since the blow."""
        if self.ended_s is None or self._is_settled or status.state not in {"training", "finished"}:
            return
        if status.state == "training" and not status.training.steps:
            return  # a new trainer that has not told anything yet
        if self._first is None or status.training.tokens < self._first.training.tokens:
            self._first = Status()
            self._first.CopyFrom(status)
            self._see_what_is_left(status, log)
        first = self._first
        is_finished = status.state == "finished"
        if self.trained_s is None and (is_finished or status.training.tokens > first.training.tokens):
            self.trained_s = now_s
        if self.met_s is None and status.meetings.completed > first.meetings.completed:
            self.met_s = now_s
        # Who has finished starts no meeting any more, so none need come.
        self._is_settled = self.trained_s is not None and (self.met_s is not None or is_finished)

    def _see_what_is_left(self, status: Status, log: str) -> None:
        fault = self.blow.fault
        if fault is Fault.END_FIRST:
            self.lost_steps = self.before.steps - self.before.steps_when_met
        elif fault in DEADLY:
            if "state_downloaded" in log:
                self.came_back_with, kept = "donor", self.before.steps_when_met
            else:
                self.came_back_with, kept = "own state", status.training.steps
            self.lost_steps = max(0, self.before.steps - kept)
        if fault in _TRAINS_ON and self.ended_s is not None and self.ended_s - self.began_s >= _LONG_ENOUGH_S:
            self.trained_through = status.training.tokens > self.before.tokens
