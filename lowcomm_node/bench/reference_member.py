"""One member of a reference run, a process of its own: ``python -m lowcomm_node.bench.reference_member LOAD``.

Model, data, optimizer, schedule and held-out text are a node's; what is not a node's is that it waits: for a mean gradient in each step
(DDP), for a mean of the weights every H steps (DiLoCo), both by Gloo's all-reduce in fp32 over loopback. A line of standard output
is a look at itself; the last one is written after the state.
"""

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from lowcomm_node.adapters.tcp import received_bytes
from lowcomm_node.bench.diloco import DilocoOuter
from lowcomm_node.bench.reference_load import MemberLoad, Reference, Telling
from lowcomm_node.errors import LowcommError
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.load import read_manifest
from lowcomm_node.settings.manifest import Manifest, OuterConfig
from lowcomm_node.settings.node import DataSettings, DeviceSettings, NodeSettings
from lowcomm_node.train.device_group import ProcessGroup
from lowcomm_node.train.evaluate import validation_loss
from lowcomm_node.train.session import Session, build_session
from lowcomm_node.train.state_file import write_state
from lowcomm_node.units import PeerId

__all__ = ["main", "train_member"]


def train_member(load: MemberLoad, group: ProcessGroup) -> None:
    """Train to the end of the schedule, say how it goes, and write the state. Raises LowcommError."""
    manifest = read_manifest(Path(load.manifest))
    run = run_id(manifest)
    # Outer steps are those of the reference, and not the node's own.
    inner = replace(manifest, outer=OuterConfig(every_steps=0))
    session = _session(load, inner, manifest, group)
    replica = session.replica
    outer = DilocoOuter(replica.theta, group) if load.reference is Reference.DILOCO else None
    _say(session, load, 0)
    for step in range(1, manifest.training.total_steps + 1):
        replica.train_step(session.stream.batch(step - 1))
        is_last = step == manifest.training.total_steps
        if outer is not None and (is_last or step % load.diloco_every_steps == 0):
            outer.step()  # whatever the period, after the last step: its result is what a run is for
        if is_last or (load.eval_every_steps and step % load.eval_every_steps == 0):
            _say(session, load, step)
    group.mean_(
        torch.zeros(1)
    )  # connections end with whoever leaves first, and what was received over them is not told any more
    write_state(Path(load.state_file), replica.state(), run)


def _session(load: MemberLoad, inner: Manifest, manifest: Manifest, group: ProcessGroup) -> Session:
    is_synchronous = load.reference is Reference.DDP
    settings = NodeSettings(
        state_dir=load.state_dir,
        # The devices of one node share its threads; here each has its own.
        device=DeviceSettings(threads=load.threads * (load.size if is_synchronous else 1), name="cpu"),
        data=DataSettings(paths=load.data, tokenizer=load.tokenizer),
    )
    peer = PeerId(load.peer_id)
    return build_session(inner, settings, run_id(manifest), peer, group if is_synchronous else None)


def _say(session: Session, load: MemberLoad, steps: int) -> None:
    replica, manifest = session.replica, session.manifest
    loss = None
    if load.reference is not Reference.DDP or load.rank == 0:
        loss = validation_loss(replica.model, session.validation, replica.micro_batches, replica.loss)
    telling = Telling(steps=steps, tokens=steps * manifest.tokens_per_step, loss=loss, received_bytes=received_bytes())
    sys.stdout.write(f"{telling.to_json()}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Be one member; an error is the last line of standard error and status 1."""
    load = MemberLoad.from_json(arguments[0])
    try:
        with closing(
            ProcessGroup(Path(load.rendezvous), load.rank, load.size, load.patience_s, joining_s=load.patience_s)
        ) as group:
            train_member(load, group)
    except LowcommError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
