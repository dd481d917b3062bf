"""Statuses and a scripted node for the tests of ``lowcomm_node.cli.swarm``."""

from collections.abc import Mapping
from pathlib import Path

from lowcomm_node.cli.swarm.lives import Status

SCRIPTED_NODE = Path(__file__).with_name("scripted_node.py")


def status(
    *,
    state: str = "training",
    steps: int = 0,
    peer_id: str = "peer",
    completed: int = 0,
    half: int = 0,
    failed: Mapping[str, int] | None = None,
    sent: Mapping[tuple[str, str], int] | None = None,
    blocked: Mapping[str, float] | None = None,
    sketch: tuple[float, ...] = (),
    validation_loss: float = 0.0,
) -> Status:
    """A status of a node with 1000 parameters that trains on 10 tokens a step in a run of 100 steps."""
    made = Status(peer_id=peer_id, state=state, run_id="ab" * 32, run_name="swarm", join_address=f"/ip4/{peer_id}")
    made.training.steps = steps
    made.training.tokens = 10 * steps
    made.training.loss = 3.0
    made.training.validation_loss = validation_loss
    made.training.progress_steps = steps
    made.training.total_steps = 100
    made.training.parameters = 1000
    made.training.sketch.extend(sketch)
    made.training.blocked_seconds.update(dict(blocked or {}))
    made.meetings.completed = completed
    made.meetings.half = half
    made.meetings.failed.update(dict(failed or {}))
    for (stream, codec), count in (sent or {}).items():
        made.meetings.bytes.add(direction="sent", stream=stream, codec=codec, bytes=count)
        made.meetings.bytes.add(direction="received", stream=stream, codec=codec, bytes=7 * count)
    return made
