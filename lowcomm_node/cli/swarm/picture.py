"""What a view shows of a running swarm, and how it is made of what is known; drawn by ``view``."""

import math
from dataclasses import dataclass

from lowcomm_node.cli.swarm.fleet import Fleet, Stage
from lowcomm_node.cli.swarm.observe import Observer

__all__ = ["NodeRow", "Picture", "paint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One node; NaN where unknown."""

    name: str
    state: str
    steps: int = 0
    loss: float = float("nan")
    validation_loss: float = float("nan")
    tokens_per_second: float = 0.0
    meetings: int = 0
    partner: str = ""
    meeting_ago_s: float = -1.0
    bytes_sent: int = 0
    note: str = ""
    """How often it was killed, what it waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The swarm at one moment; NaN where unknown."""

    nodes: tuple[NodeRow, ...]
    elapsed_s: float
    left_s: float | None
    share_done: float
    """0 to 1."""
    progress_steps: float
    total_steps: int
    validation_loss: float
    loss: float
    spread: float
    meetings: int
    meetings_per_minute: float
    bytes_per_token: float
    ddp_bytes_per_token: float
    tokens_per_second: float
    memory_bytes: int
    killed: int = 0
    joined_late: int = 0


def paint(observer: Observer, fleet: Fleet, *, nodes: int, limit_s: float | None) -> Picture:
    """The swarm as it is now; ``nodes`` of its members were there from the start."""
    ledger = observer.ledger
    rows = tuple(_row(name, observer, fleet) for name in ledger.nodes)
    share = observer.share_done(limit_s)
    progress, total = observer.progress()
    last = observer.history.swarm[-1] if observer.history.swarm else None
    tokens = max(1, ledger.tokens)
    return Picture(
        nodes=rows,
        elapsed_s=observer.elapsed_s,
        left_s=observer.elapsed_s * (1 - share) / share if share > 0.01 else None,
        share_done=share,
        progress_steps=progress,
        total_steps=total,
        loss=last.loss if last else math.nan,
        validation_loss=last.validation_loss if last else math.nan,
        spread=last.spread if last else math.nan,
        meetings=ledger.meetings_completed,
        meetings_per_minute=observer.meetings_per_minute,
        bytes_per_token=ledger.bytes_sent_total / tokens,
        ddp_bytes_per_token=(last.ddp_bytes if last else 0.0) / tokens,
        tokens_per_second=sum(row.tokens_per_second for row in rows if row.state == "training"),
        memory_bytes=observer.memory_bytes,
        killed=ledger.count("killed"),
        joined_late=max(0, len(rows) - nodes),
    )


def _row(name: str, observer: Observer, fleet: Fleet) -> NodeRow:
    status = observer.statuses.get(name)
    lives = observer.ledger.lives_of(name)
    note = f"life {lives}" if lives > 1 else ""
    state = _state(name, observer, fleet)
    if status is None:
        return NodeRow(name=name, state=state, note=note)
    names = {other.peer_id: other_name for other_name, other in observer.statuses.items()}
    training, meetings = status.training, status.meetings
    return NodeRow(
        name=name,
        state=state,
        steps=training.steps,
        loss=training.loss or math.nan,
        validation_loss=training.validation_loss or math.nan,
        tokens_per_second=training.tokens_per_second,
        meetings=meetings.completed,
        partner=names.get(meetings.last_partner, meetings.last_partner[-6:]),
        meeting_ago_s=meetings.last_meeting_ago_seconds if meetings.last_partner else -1.0,
        bytes_sent=observer.ledger.current(name).bytes_sent,
        note=note if state in {"training", "finished"} else status.detail,
    )


def _state(name: str, observer: Observer, fleet: Fleet) -> str:
    if name in fleet.places(Stage.KILLED, Stage.RETURNING):
        return "killed"
    if name in fleet.places(Stage.ENDED):
        return "ended"
    return observer.statuses[name].state if name in observer.statuses else "starting"
