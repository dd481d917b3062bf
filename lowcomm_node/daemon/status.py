"""The node's status as the wire's ``Status`` and ``Peers``: one form for control socket, HTTP and command line."""

import math
from collections.abc import Mapping
from types import MappingProxyType

from lowcomm_node import __version__
from lowcomm_node.core.node import NodeCore
from lowcomm_node.daemon.network import Network
from lowcomm_node.daemon.recorder import MeetingTally
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.messages import AbReport, Ready, Report
from lowcomm_node.units import PeerId
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import (
    AbGroup,
    AbStatus,
    MeetingStatus,
    Peer,
    Peers,
    Status,
    TrainingStatus,
    WireBytes,
)
from lowcomm_node.wire.vitals import Vitals

__all__ = [
    "ab_status",
    "base_status",
    "core_status",
    "meeting_status",
    "network_status",
    "peers_status",
    "service_line",
    "training_status",
]

_NOTHING = Vitals()
_NO_VITALS: Mapping[PeerId, Vitals] = MappingProxyType({})
_NOBODY: Mapping[PeerId, int] = MappingProxyType({})


def base_status(*, peer_id: str, state: str, detail: str, uptime_s: float) -> Status:
    """What is known from the first moment on."""
    return Status(peer_id=peer_id, state=state, detail=detail, uptime_seconds=uptime_s, version=__version__)


def training_status(
    report: Report | None, ready: Ready | None, manifest: Manifest | None, started_loss: float, restarts: int
) -> TrainingStatus:
    """Where training stands; numbers not known yet are 0."""
    status = TrainingStatus(restarts=restarts, started_loss=_known(started_loss))
    if ready is not None:
        status.parameters = ready.parameters
        if report is not None and ready.bytes_per_token:
            status.bits_per_byte = _known(report.validation_loss) / math.log(2) / ready.bytes_per_token
    if manifest is not None:
        status.total_steps = manifest.training.total_steps
    if report is not None:
        status.steps, status.tokens = report.steps, report.tokens
        status.loss, status.validation_loss = _known(report.loss), _known(report.validation_loss)
        if math.isfinite(report.validation_accuracy):
            status.validation_accuracy = report.validation_accuracy
        status.learning_rate, status.gradient_norm = report.learning_rate, _known(report.gradient_norm)
        status.progress_steps, status.step_seconds = report.progress_steps, report.step_seconds
        status.tokens_per_second, status.exchange_seconds = report.tokens_per_second, report.exchange_seconds
        status.blocked_seconds.update(report.blocked_seconds)
        for sketch in report.sketches[:1]:
            status.sketch.extend(sketch.sums)
            status.sketch_mark = sketch.mark
        for sketch in report.sketches[1:]:
            status.older_sketches.add(mark=sketch.mark, sums=sketch.sums)
        status.micro_batches = report.micro_batches
        if report.ab is not None:
            status.ab.CopyFrom(ab_status(report.ab))
    return status


def meeting_status(tally: MeetingTally, phase: str, now: float) -> MeetingStatus:
    """What came of meetings in this life of the node; ``completed`` counts this end of each."""
    completed = tally.completed.total()
    return MeetingStatus(
        completed=completed,
        half=tally.half,
        failed=dict(tally.failed),
        last_partner=tally.last_partner,
        last_meeting_ago_seconds=-1.0 if tally.last_at is None else now - tally.last_at,
        bytes=[
            WireBytes(direction=direction, stream=stream, codec=codec, bytes=count)
            for (direction, stream, codec), count in sorted(tally.bytes.items())
        ],
        current=phase,
        links={link.value: count for link, count in tally.links.items()},
        mean_duration_seconds=tally.duration_sum_s / completed if completed else 0.0,
    )


def peers_status(
    core: NodeCore | None, now: float, told: Mapping[PeerId, Vitals] = _NO_VITALS, met: Mapping[PeerId, int] = _NOBODY
) -> Peers:
    """The members this node knows; ``told``: what they tell of themselves; ``met``: completed meetings with each."""
    if core is None:
        return Peers()
    return Peers(
        peers=[
            Peer(
                peer_id=view.member.peer,
                grpc_address=view.member.grpc_address,
                progress_steps=view.member.progress_steps,
                state="suspect" if view.is_suspect(now) else "reachable",
                seen_ago_seconds=max(0.0, now - view.seen_at),
                meetings=met.get(view.member.peer, 0),
                reachability=view.member.reachability.value,
                link=core.partners.link_to(view.member.peer) or "",
                last_link=view.link or "",
                validation_loss=told.get(view.member.peer, _NOTHING).validation_loss,
                frozen_epoch=note.epoch if (note := view.member.frozen) is not None else 0,
                frozen_digest=note.digest if note is not None else "",
                factor=note.factor.value if note is not None else "",
            )
            for view in core.partners.views()
        ]
    )


def network_status(status: Status, network: Network) -> None:
    """Fill in how others get to this node, as far as it is known."""
    status.join_address = network.join_address
    status.grpc_address = network.grpc_address
    status.reachability = network.reachability.value


def core_status(status: Status, core: NodeCore, tally: MeetingTally, now: float) -> None:
    """Fill in what the core knows: meetings, members, bells, and how it comes to frozen factors."""
    status.meetings.CopyFrom(meeting_status(tally, core.phase(), now))
    status.peers_known = len(core.partners.views())
    status.bells_own, status.bells_held = core.num_bells()
    in_role = core.frozen.in_role
    if status.training.HasField("ab"):
        status.training.ab.doing = core.frozen.doing
        status.training.ab.partners = sum(
            in_role is not None and view.member.frozen == in_role for view in core.partners.views()
        )


def ab_status(report: AbReport) -> AbStatus:
    """Where AB-training stands in the trainer."""
    return AbStatus(
        stage=report.stage.value,
        epoch=report.epoch,
        digest=report.digest,
        factor=report.factor.value if report.factor is not None else "",
        groups=[
            AbGroup(
                name=group.name,
                tensors=group.tensors,
                rank=group.rank,
                whole_rank=group.whole_rank,
                energy_kept=_known(group.energy_kept),
            )
            for group in report.groups
        ],
        energy_kept=_known(report.energy_kept),
        compression=_known(report.compression),
    )


def service_line(status: Status) -> str:
    """The status in one line, for the service manager."""
    training = status.training
    parts = [status.detail] if status.detail else []
    if training.steps:
        parts.append(f"step {training.steps}, loss {training.loss:.3f}")
    return ", ".join(
        [f"{status.state}: {'; '.join(parts)}" if parts else status.state, f"{status.peers_known} peers known"]
    )


def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0
