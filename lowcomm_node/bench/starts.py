"""How long it takes to take part: moments on the way from a node's start, and when a late one is as good as the others."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

__all__ = ["Milestones", "Moment", "medians", "milestones_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a node says of itself at one moment, and the others of theirs."""

    after_s: float
    """Since its process was started."""
    state: str
    """As in its status; empty while it does not answer."""
    steps: int = 0
    """Own steps."""
    validation_loss: float = 0.0
    """0 until it is known."""
    swarm_loss: float = 0.0
    """Largest validation loss among the others; 0 where there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestones:
    """Seconds from the start of the process; None for what has not come to pass."""

    answers_s: float | None = None
    """The daemon shows its page."""
    syncing_s: float | None = None
    """It has found the run and fetches a state; who begins a run does not."""
    training_s: float | None = None
    first_step_s: float | None = None
    swarm_loss_s: float | None = None
    """Its model, measured by itself on held-out text, is as good as the worst of the others'."""


def milestones_of(moments: Iterable[Moment]) -> Milestones:
    """When each was seen first."""
    seen: dict[str, float] = {}
    for moment in moments:
        reached = {
            "answers_s": bool(moment.state),
            "syncing_s": moment.state == "syncing",
            "training_s": moment.state == "training",
            "first_step_s": moment.steps > 0,
            "swarm_loss_s": 0.0 < moment.validation_loss <= moment.swarm_loss,
        }
        for name, is_reached in reached.items():
            if is_reached:
                seen.setdefault(name, moment.after_s)
    return Milestones(**seen)


def medians(rounds: Sequence[Milestones]) -> Mapping[str, float]:
    """Of each milestone that was reached in every round."""
    plain = [asdict(of_round) for of_round in rounds]
    reached = [field.name for field in fields(Milestones) if all(row[field.name] is not None for row in plain)]
    return {name: statistics.median(row[name] for row in plain) for name in reached} if rounds else {}
