"""The baseline: the same replica on the same data, meeting nobody."""

import time
from collections.abc import Callable
from pathlib import Path

from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.train.evaluate import look_at
from lowcomm_node.train.loop import REPORT_EVERY_S
from lowcomm_node.train.messages import Report
from lowcomm_node.train.meter import Meter
from lowcomm_node.train.session import build_session
from lowcomm_node.train.state_file import write_state
from lowcomm_node.units import PeerId, RunId

__all__ = ["train_alone"]


def train_alone(
    manifest: Manifest,
    settings: NodeSettings,
    run_id: RunId,
    peer_id: PeerId,
    *,
    steps: int,
    state_path: Path,
    on_report: Callable[[Report], bool] | None = None,
) -> Report:
    """Train ``steps`` own steps from the run's initial weights and write a state file.

    Batches are those that the node ``peer_id`` draws in the swarm; progress is the node's own step count, so the
    learning rate follows the manifest's schedule. ``on_report`` is called at most ten times a second and may return
    False to end early; the state is written all the same. Returns the last report, with a fresh validation loss.
    Raises ConfigError, DataError and StoreError.
    """
    session = build_session(manifest, settings, run_id, peer_id)
    replica, clock = session.replica, time.monotonic
    meter = Meter(replica, manifest, clock)

    def validate() -> None:
        meter.held_out = look_at(replica.model, session.validation, replica.loss, replica.micro_batches)

    validate()
    while replica.steps < steps:
        started = clock()
        batch = session.stream.batch(replica.data_cursor)
        meter.blocked_seconds["data"] += clock() - started
        result = replica.train_step(batch)
        meter.stepped(result, clock() - started)
        if session.eval_every_steps and replica.steps % session.eval_every_steps == 0:
            validate()
        is_due = on_report is not None and meter.window_seconds() >= REPORT_EVERY_S
        if is_due and on_report is not None and not on_report(meter.report()):
            break
    validate()
    write_state(state_path, replica.state(), run_id)
    return meter.report()
