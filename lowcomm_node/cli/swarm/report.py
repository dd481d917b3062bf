"""The machine-readable report of a swarm: everything in it was measured, nothing is a default that looks like one."""

import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from lowcomm_node import PROTOCOL_VERSION, __version__
from lowcomm_node.cli.swarm.calm_report import CalmReport
from lowcomm_node.cli.swarm.chaos_report import ChaosReport
from lowcomm_node.cli.swarm.conductor import Ending
from lowcomm_node.cli.swarm.fleet import IncidentKind
from lowcomm_node.cli.swarm.history import History
from lowcomm_node.cli.swarm.line_report import LineReport
from lowcomm_node.cli.swarm.lives import Ledger, ddp_bytes
from lowcomm_node.cli.swarm.throughput import ThroughputReport
from lowcomm_node.errors import StoreError

__all__ = ["NodeReport", "SwarmReport", "make_report", "write_report"]

_LIBRARIES = ("torch", "hivemind", "grpcio", "protobuf")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """One node over all its lives."""

    peer_id: str
    is_live: bool
    """It left in order and its state was judged."""
    lives: int
    steps: int
    tokens: int
    val_loss_end: float | None = None
    val_loss_local_only: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmReport:
    """One run of ``lowcomm-node swarm``. Losses are nats per token; None (null) is what was not measured.

    Counters of nodes that were killed or died are those of the last look at them, at most about a second old.
    """

    nodes: int
    """Nodes at the start."""
    nodes_live: int
    """Nodes that were alive at the end; the ``val_loss_end`` is theirs."""
    seconds: float
    """Training time, from the first node's first step to the order to stop."""
    steps_total: int
    """Inner steps of all nodes, all lives."""
    tokens_total: int
    val_loss_start: float | None
    """Of the initial model, on the same text as the others."""
    val_loss_end: float | None
    """Mean over the live nodes."""
    val_loss_consensus: float | None
    """Of the model averaged over the live nodes."""
    val_loss_local_only: float | None
    """Mean over the live nodes' doubles that trained alone; null unless ``--compare local``."""
    spread_start: float | None
    """First estimate of the distance between replicas, from their sketches (see ``spread_end``)."""
    spread_max: float | None
    """Largest such estimate."""
    spread_end: float | None
    """Root mean square distance of the live nodes' parameters from their mean, per parameter."""
    meetings_completed: int
    """Each meeting once: half the sum of what both ends counted, rounded up."""
    meetings_failed: dict[str, int]
    """By reason, counted by each end that noticed."""
    meetings_half: int
    bytes_sent: dict[str, dict[str, int]]
    """Stream -> codec -> payload bytes, all nodes."""
    ddp_bytes_equivalent: float
    """What fp32 ring all-reduce among ``nodes`` would have sent for as many node steps: 2 (N - 1) / N * P * 4 each."""
    blocked_seconds: dict[str, float]
    """Cause -> seconds in which trainers wanted to train and waited, all nodes."""
    tokens_per_second: dict[str, float]
    """Node -> tokens per second of its training time."""
    killed: int
    """kill -9 by this command."""
    joined_late: int
    """Late nodes that came to train."""
    died: int
    """Nodes that ended unasked, failed while leaving, or had to be forced to end."""
    leftovers: list[str]
    """Processes and sockets that outlived their node and had to be removed; empty is right."""
    ended_by: str
    """time, finished, interrupted, stalled, nobody left."""
    incidents: list[dict[str, object]] = field(default_factory=list)
    """Unexpected ends, each with exit code and last log lines."""
    val_accuracy_end: float | None = None
    """Mean over the live nodes of the share of held-out examples that is answered right; null for language models."""
    val_accuracy_consensus: float | None = None
    """Of the model averaged over the live nodes."""
    memory_peak_bytes: int = 0
    """Largest sum of the proportional set sizes of all processes, this command's included; sampled every 5 s."""
    parameters: int = 0
    total_steps: int = 0
    """Of the manifest."""
    progress_end: float = 0.0
    """Mean swarm progress at the end, in steps."""
    per_node: dict[str, NodeReport] = field(default_factory=dict)
    chaos: ChaosReport | None = None
    """Null unless ``--chaos`` or ``--sleep``."""
    calm: CalmReport | None = None
    """Null unless ``--compare calm``."""
    line: LineReport | None = None
    """Null unless ``--line``."""
    throughput: ThroughputReport | None = None
    """Null unless ``--compare no-meetings``."""
    run_id: str = ""
    run_name: str = ""
    seed: int = 0
    command: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def bytes_sent_total(self) -> int:
        """Payload bytes of all nodes."""
        return sum(count for codecs in self.bytes_sent.values() for count in codecs.values())

    @property
    def has_kept_its_promises(self) -> bool:
        """It ran to its end with a live node. After chaos also: nothing half, hung, left behind, dead or worse."""
        if self.ended_by not in {"time", "finished"} or not self.nodes_live:
            return False
        if self.chaos is None:
            return True
        is_worse = self.calm is not None and bool(self.calm.above)
        return not (self.chaos.broken or self.leftovers or self.died or is_worse)

    def to_json(self) -> str:
        """Indented JSON with a final line break; what is not finite becomes null."""
        return json.dumps(_finite(asdict(self)), indent=2, ensure_ascii=False) + "\n"


def make_report(
    ledger: Ledger,
    history: History,
    ending: Ending,
    *,
    nodes: int,
    memory_peak_bytes: int,
    seed: int,
    command: Sequence[str],
) -> SwarmReport:
    """What the run itself says; losses are filled in by who judges the states (``dataclasses.replace``)."""
    known = [life.last for life in ledger.lives if life.last is not None]
    spreads = [point.spread for point in history.swarm if not math.isnan(point.spread)]
    per_node = {name: _node_report(name, ledger, ending) for name in ledger.nodes}
    return SwarmReport(
        nodes=nodes,
        nodes_live=len(ending.live),
        seconds=ending.seconds,
        steps_total=ledger.steps,
        tokens_total=ledger.tokens,
        val_loss_start=None,
        val_loss_end=None,
        val_loss_consensus=None,
        val_loss_local_only=None,
        spread_start=next((spread for spread in spreads if spread > 0), None),
        spread_max=max(spreads, default=None),
        spread_end=None,
        meetings_completed=ledger.meetings_completed,
        meetings_failed=ledger.meetings_failed,
        meetings_half=ledger.meetings_half,
        bytes_sent=ledger.bytes_sent,
        ddp_bytes_equivalent=ddp_bytes(nodes, ledger.parameters, ledger.steps),
        blocked_seconds=ledger.blocked_seconds,
        tokens_per_second={name: ledger.tokens_per_second(name) for name in ledger.nodes},
        killed=ledger.count("killed"),
        joined_late=ending.joined_late,
        died=ledger.count("died"),
        leftovers=[f"{i.node}: {i.detail}" for i in ending.incidents if i.kind is IncidentKind.LEFTOVER],
        ended_by=ending.reason,
        incidents=[asdict(i) for i in ending.incidents if i.kind in {IncidentKind.DIED, IncidentKind.FORCED}],
        memory_peak_bytes=memory_peak_bytes,
        parameters=ledger.parameters,
        total_steps=max((status.training.total_steps for status in known), default=0),
        progress_end=ending.progress_steps,
        per_node=per_node,
        run_id=next((status.run_id for status in known), ""),
        run_name=next((status.run_name for status in known), ""),
        seed=seed,
        command=list(command),
        versions=_versions(),
    )


def write_report(report: SwarmReport, path: Path) -> None:
    """Write the report, making the folder. Raises StoreError naming the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(report.to_json(), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: the report cannot be written: {error.strerror}") from error


def _node_report(name: str, ledger: Ledger, ending: Ending) -> NodeReport:
    lives = [life for life in ledger.lives if life.node == name]
    return NodeReport(
        peer_id=next((life.last.peer_id for life in lives if life.last is not None and life.last.peer_id), ""),
        is_live=name in ending.live,
        lives=len(lives),
        steps=sum(life.steps for life in lives),
        tokens=sum(life.tokens for life in lives),
    )


def _versions() -> dict[str, str]:
    versions = {"lowcomm-node": __version__, "protocol": str(PROTOCOL_VERSION)}
    versions["python"] = platform.python_version()
    versions["platform"] = sys.platform
    return versions | {name: metadata.version(name) for name in _LIBRARIES}


def _finite(value: object) -> object:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
