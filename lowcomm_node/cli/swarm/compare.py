"""The control: the same nodes on the same data for as many own steps, but nobody meets anybody."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from lowcomm_node.cli.swarm.calibrate import with_total_steps
from lowcomm_node.cli.swarm.interrupts import Interrupts
from lowcomm_node.errors import LowcommError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.units import PeerId, RunId

__all__ = ["Hermit", "train_hermits"]

_LOOK_EVERY_S = 0.5
_END_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hermit:
    """One node that is to train alone."""

    name: str
    peer_id: PeerId
    """The node's in the swarm: the same data stream."""
    steps: int
    """Own steps the node took in the swarm, all lives together."""
    state_file: Path


def train_hermits(
    hermits: list[Hermit],
    manifest: Manifest,
    run_id: RunId,
    settings: NodeSettings,
    *,
    interrupts: Interrupts,
    on_progress: Callable[[float], None],
) -> bool:
    """Train all of them side by side, each in its own process, and write their states.

    Each has the run's initial weights. Its schedule is as long as its own steps, so that its learning rate comes
    down fully: the control gets its best chance. Returns False when interrupted; no process is left either way.
    Raises LowcommError when one of them fails.
    """
    context = multiprocessing.get_context("spawn")
    runs: list[tuple[Hermit, BaseProcess, Connection]] = []
    try:
        for hermit in hermits:
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(
                target=_train_one, args=(hermit, manifest, run_id, settings, writer), name=hermit.name, daemon=True
            )
            process.start()
            writer.close()
            runs.append((hermit, process, reader))
        return _wait(runs, interrupts, on_progress)
    finally:
        for _, started, reader in runs:
            reader.close()
            started.kill()
            started.join(_END_PATIENCE_S)


def mean_share(steps_done: Mapping[str, int], hermits: list[Hermit]) -> float:
    """Share of all steps together that is done, 0 to 1."""
    return sum(steps_done.values()) / max(1, sum(hermit.steps for hermit in hermits))


def _wait(
    runs: list[tuple[Hermit, BaseProcess, Connection]], interrupts: Interrupts, on_progress: Callable[[float], None]
) -> bool:
    hermits = [hermit for hermit, _, _ in runs]
    steps_done = {hermit.name: 0 for hermit in hermits}
    while any(process.is_alive() for _, process, _ in runs):
        if interrupts:
            return False
        for hermit, _, reader in runs:
            # The other end closes when it is done; what it had said by then is enough.
            with contextlib.suppress(EOFError, OSError):
                while reader.poll():
                    steps_done[hermit.name] = int(reader.recv())
        on_progress(mean_share(steps_done, hermits))
        interrupts.wait(_LOOK_EVERY_S)
    for hermit, process, _ in runs:
        process.join()
        if process.exitcode:
            raise LowcommError(f"{hermit.name} training alone ended with exit code {process.exitcode}")
    return True


def _train_one(hermit: Hermit, manifest: Manifest, run_id: RunId, settings: NodeSettings, writer: Connection) -> None:
    from lowcomm_node.train.alone import train_alone
    from lowcomm_node.train.messages import Report

    # Ctrl+C in a terminal reaches this process too; the swarm decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(report: Report) -> bool:
        try:
            writer.send(report.steps)
        except OSError:
            return False  # the swarm is gone
        return True

    own = with_total_steps(manifest, hermit.steps)
    quiet = replace(settings, eval_every_steps=0)
    train_alone(own, quiet, run_id, hermit.peer_id, steps=hermit.steps, state_path=hermit.state_file, on_report=tell)
    writer.close()
