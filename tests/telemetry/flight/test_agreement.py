"""Agreement on frozen factors in a dump: it is recorded whole, and runs the same without names."""

from pathlib import Path

from lowcomm_node.core.ab_stages import Stage
from lowcomm_node.core.commands import Command, FetchFrozen, SplitTensors, UseFrozen
from lowcomm_node.core.events import (
    FetchFailed,
    FrozenHeld,
    FrozenNote,
    FrozenUsed,
    Member,
    MembersSeen,
    StepsTaken,
    Ticked,
    TrainerReady,
)
from lowcomm_node.core.node import NodeCore, NodeRules
from lowcomm_node.sim.link import virtual_peer
from lowcomm_node.sim.swarm import VIRTUAL_RUN
from lowcomm_node.telemetry.flight.dump import dump_text, read_dump
from lowcomm_node.telemetry.flight.recorder import FlightRecorder
from lowcomm_node.telemetry.flight.replay import replay
from lowcomm_node.units import Factor, PeerId, Stream


def test_an_agreement_replays_without_names(tmp_path: Path) -> None:
    """Turns and factors go by the order of peer ids, and what counts by that of digests: pseudonyms keep the one, the other stays."""
    peers = sorted(virtual_peer(index) for index in range(6))
    rules = NodeRules(
        own=peers[3], run_id=VIRTUAL_RUN, protocol_version=1, periods={Stream.PARAMS: 5}, deadline_s=30.0,
        verdict_keep_s=60.0, max_peers=16, seed=b"seed",
    )  # fmt: skip
    recorder = FlightRecorder(NodeCore(rules), max_entries=8)  # so few that the record begins in the middle of it
    said: list[Command] = []
    now = 0.0

    def seen(until: float, *notes: tuple[PeerId, str]) -> MembersSeen:
        told = dict(notes)
        return MembersSeen(
            members=tuple(
                Member(
                    peer=peer, grpc_address="h:1", progress_steps=0.0, has_state=True, expires_at=until,
                    frozen=FrozenNote(epoch=1, digest=told[peer], factor=Factor.A) if peer in told else None,
                )
                for peer in peers if peer != rules.own
            )
        )  # fmt: skip

    own, lower = "3" * 64, "2" * 64
    for event, after_s in (
        (TrainerReady(), 0.0),
        (seen(60.0), 0.1),
        (StepsTaken(steps=1, stage=Stage.FACTORS, epoch=1), 0.1),
        (Ticked(), 14.0),
        (Ticked(), 2.0),  # the fourth in the order
        (FrozenHeld(epoch=1, digest=own, is_own=True), 1.0),
        (FrozenUsed(epoch=1, digest=own, factor=Factor.B), 0.1),
        (seen(90.0, (peers[0], lower), (peers[5], lower)), 1.0),
        (FetchFailed(epoch=1, digest=lower, is_busy=False), 1.0),
        (Ticked(), 6.0),
        (FrozenHeld(epoch=1, digest=lower, is_own=False), 1.0),
        (FrozenUsed(epoch=1, digest=lower, factor=Factor.B), 0.1),
        (StepsTaken(steps=9, stage=Stage.REBOUND, epoch=1), 1.0),
    ):
        now += after_s
        said += recorder.handle(event, now)
    kinds = [type(command) for command in said if isinstance(command, SplitTensors | FetchFrozen | UseFrozen)]
    assert kinds == [SplitTensors, UseFrozen, FetchFrozen, FetchFrozen, UseFrozen]

    path = tmp_path / "dump.json"
    path.write_text(dump_text({}, recorder.recording(), names={}))
    dump = read_dump(path)

    assert dump.recording is not None
    assert "12D3KooW" not in path.read_text()
    outcome = replay(dump.recording)
    assert outcome.difference is None
    assert outcome == replay(recorder.recording())
