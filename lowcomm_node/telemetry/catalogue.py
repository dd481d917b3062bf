"""All metrics of a node in one table: the registry and ``docs/metrics.md`` are both made from it.

Label values are closed sets; each combination exists at zero from the start, so that a fresh node shows
zeros instead of nothing and the first increment is not lost to ``rate()``. No label ever carries a peer
id, an address, a path or free text: who met whom is in the logs and in ``lowcomm-node status --json``.
"""

from collections.abc import Iterable

from lowcomm_node.core.commands import HealReason, Role
from lowcomm_node.core.fingerprint import StateFault
from lowcomm_node.core.supervision import Cause
from lowcomm_node.errors import RefusalReason
from lowcomm_node.telemetry.line_metrics import LINE_METRICS
from lowcomm_node.telemetry.metric import UNMEASURED, Metric, label_sets
from lowcomm_node.units import Codec, LinkKind, Reachability, Stream

__all__ = ["CATALOGUE", "OTHER"]

OTHER = "other"
"""Label value for a word that is not in a closed set; it staying above zero means the set lacks a word."""

_STATES = ("starting", "connecting", "syncing", "training", "finished", "draining", "stopped", "failed")
_CAUSES = ("meeting", "data", "sync", "checkpoint")
_CAUSES_OF_DEATH = tuple(Cause)
_ROLES = tuple(Role)
_STREAMS = tuple(Stream)
_CODECS = tuple(Codec)
_LINKS = tuple(LinkKind)
_DIRECTIONS = ("sent", "received")
_REFUSALS = (*RefusalReason, OTHER)
_FAILURES = ("busy", "unreachable", "disconnect", "timeout", "trainer", *_REFUSALS)
_LEVELS = ("debug", "info", "warning", "error", "critical")

_STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MEETING_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

CATALOGUE: tuple[Metric, ...] = (
    Metric(
        name="build_info",
        kind="info",
        help="What is running here.",
        labels={"version": (), "python": (), "torch": ()},
        used_by="Do all nodes run the same version?",
    ),
    Metric(
        name="node_info",
        kind="info",
        help="Who this node is and what it takes part in.",
        labels={"peer_id": (), "run_id": (), "run_name": (), "codec": (), "device": ()},
        used_by="Join it to other metrics to select by run or node.",
    ),
    Metric(
        name="node_state",
        kind="gauge",
        help="1 for the state of its life the node is in, 0 for the others.",
        labels={"state": _STATES},
        used_by="What is the node doing? Has it failed?",
    ),
    Metric(
        name="train_steps_total",
        kind="counter",
        help="Inner steps done by this node, those redone after a trainer restart included.",
        used_by="Steps per second; is training stalled?",
    ),
    Metric(
        name="train_tokens_total",
        kind="counter",
        help="Tokens this node has trained on.",
        used_by="Tokens per second; bytes per token.",
    ),
    Metric(
        name="train_loss",
        kind="gauge",
        help="Mean training loss of the latest steps, in nats per token.",
        initial=UNMEASURED,
        used_by="Is it learning? Is this node an outlier?",
    ),
    Metric(
        name="train_validation_loss",
        kind="gauge",
        help="Newest loss on held-out text, in nats per token.",
        initial=UNMEASURED,
        used_by="Is it learning, on text no node trains on?",
    ),
    Metric(
        name="train_gradient_norm",
        kind="gauge",
        help="Global gradient norm of the latest step, before clipping.",
        initial=UNMEASURED,
        used_by="Is training stable?",
    ),
    Metric(
        name="train_learning_rate",
        kind="gauge",
        help="Learning rate of the latest step.",
        initial=UNMEASURED,
        used_by="Where in the schedule is this node?",
    ),
    Metric(
        name="train_nonfinite_steps_total",
        kind="counter",
        help="Steps skipped because the loss or the gradient was not finite.",
        used_by="Does training diverge?",
    ),
    Metric(
        name="train_step_duration_seconds",
        kind="histogram",
        help="Duration of an inner step, meetings not counted; steps that were reported together count with their mean.",
        buckets=_STEP_BUCKETS,
        used_by="Median and tail of the step time.",
    ),
    Metric(
        name="train_blocked_seconds_total",
        kind="counter",
        help="Time the trainer wanted to train and waited instead. For a meeting this stays 0.",
        labels={"cause": _CAUSES},
        used_by="Does training ever wait, and for what?",
    ),
    Metric(
        name="train_exchange_seconds_total",
        kind="counter",
        help="The trainer's own compute for encoding and applying what meetings exchange.",
        used_by="Share of the machine that meetings cost.",
    ),
    Metric(
        name="train_last_step_timestamp_seconds",
        kind="gauge",
        help="Unix time at which a step was last reported; 0 before the first.",
        used_by="Is training stalled?",
    ),
    Metric(
        name="train_progress_steps",
        kind="gauge",
        help="Swarm progress as this node knows it: inner steps of the average node.",
        used_by="Do nodes read the same point of the schedule?",
    ),
    Metric(
        name="outer_steps_total",
        kind="counter",
        help="Local outer (heavy-ball) steps.",
        used_by="Does the outer optimizer run?",
    ),
    Metric(
        name="trainer_restarts_total",
        kind="counter",
        help="Times the trainer process was started again after it had died, by what had ended it.",
        labels={"reason": _CAUSES_OF_DEATH},
        used_by="Does the trainer crash, and of what?",
    ),
    Metric(
        name="train_micro_batches",
        kind="gauge",
        help="Parts that a batch is taken in; more than one where the memory does not hold a whole one.",
        initial=UNMEASURED,
        used_by="Is the node slower for want of memory?",
    ),
    Metric(
        name="leftovers_removed_total",
        kind="counter",
        help="What an earlier life of this node had left, found and removed at the start.",
        labels={"kind": ("process", "socket")},
        used_by="Do killed nodes leave something behind?",
    ),
    Metric(
        name="meetings_started_total",
        kind="counter",
        help="Meetings begun, by this node's role in them.",
        labels={"role": _ROLES},
        used_by="How often does the node meet?",
    ),
    Metric(
        name="meetings_completed_total",
        kind="counter",
        help="Meetings whose correction this node applied, knowing that its partner did.",
        labels={"role": _ROLES},
        used_by="How many meetings succeed?",
    ),
    Metric(
        name="meetings_by_link_total",
        kind="counter",
        help="Completed meetings by what they travelled over; grpc_reversed: who had started it was dialled for it.",
        labels={"link": _LINKS},
        used_by="How do nodes that cannot be dialled take part?",
    ),
    Metric(
        name="meetings_failed_total",
        kind="counter",
        help="Meetings that ended with nothing applied, by reason.",
        labels={"reason": _FAILURES},
        used_by="Why do meetings fail?",
    ),
    Metric(
        name="meetings_half_total",
        kind="counter",
        help="Meetings this node applied and whose partner cannot be known to have applied them. Should stay 0.",
        used_by="Is the swarm's mean preserved?",
    ),
    Metric(
        name="meeting_duration_seconds",
        kind="histogram",
        help="Time from the first message of a completed meeting to its end.",
        buckets=_MEETING_BUCKETS,
        used_by="How long does a meeting take?",
    ),
    Metric(
        name="meeting_last_success_timestamp_seconds",
        kind="gauge",
        help="Unix time of the last completed meeting; 0 before the first.",
        used_by="Has the node lost the swarm?",
    ),
    Metric(
        name="meeting_correction_norm",
        kind="gauge",
        help="Frobenius norm of the estimated difference from the last partner before clipping, by stream of state.",
        labels={"stream": _STREAMS},
        initial=UNMEASURED,
        used_by="Do replicas stay together?",
    ),
    Metric(
        name="meeting_corrections_clipped_total",
        kind="counter",
        help="Corrections of meetings that were scaled down because one end found them too large, by stream of state.",
        labels={"stream": _STREAMS},
        used_by="Is somebody far off or hostile? Is meeting.clip_ratio too low?",
    ),
    Metric(
        name="wire_bytes_total",
        kind="counter",
        help="Payload bytes of meetings, failed ones included.",
        labels={"direction": _DIRECTIONS, "stream": _STREAMS, "codec": _CODECS},
        used_by="Traffic; bytes per token; compression.",
    ),
    Metric(
        name="wire_raw_bytes_total",
        kind="counter",
        help="Bytes that completed meetings would have moved as whole fp32 tensors.",
        labels={"direction": _DIRECTIONS, "stream": _STREAMS},
        used_by="Compression: divide by wire_bytes_total.",
    ),
    Metric(
        name="messages_rejected_total",
        kind="counter",
        help="Messages, records and connections of peers that were refused, by reason; checksum is a signature or a digest that does not fit.",
        labels={"reason": _REFUSALS},
        used_by="Is somebody broken or hostile?",
    ),
    Metric(
        name="peers",
        kind="gauge",
        help="Other members this node knows, by what it thinks of them.",
        labels={"state": ("reachable", "suspect", "quarantined")},
        used_by="Is the node isolated?",
    ),
    Metric(
        name="reachability",
        kind="gauge",
        help="1 for how others get to this node, 0 for the other ways.",
        labels={"reachability": tuple(Reachability)},
        used_by="Can this node be dialled? How many of the swarm can?",
    ),
    Metric(
        name="bells",
        kind="gauge",
        help="Bells of this node at members that can be dialled (own), and of others here (held).",
        labels={"side": ("own", "held")},
        used_by="Can others start meetings with a node that cannot be dialled?",
    ),
    Metric(
        name="dht_requests_total",
        kind="counter",
        help="Reads and writes of the directory.",
        labels={"operation": ("get", "put"), "outcome": ("ok", "timeout", "error")},
        used_by="Does the directory work?",
    ),
    Metric(
        name="dht_restarts_total",
        kind="counter",
        help="Times the DHT was started again after its daemon had died.",
        used_by="Does the directory's daemon crash?",
    ),
    Metric(
        name="state_downloads_total",
        kind="counter",
        help="Attempts to download the training state from a donor.",
        labels={"outcome": ("ok", "failed")},
        used_by="Can newcomers join?",
    ),
    Metric(
        name="heals_total",
        kind="counter",
        help="Times the node gave up its own state for a donor's, by what was wrong with it.",
        labels={"reason": tuple(HealReason)},
        used_by="Does training diverge here? Is this machine's arithmetic broken?",
    ),
    Metric(
        name="state_refusals_total",
        kind="counter",
        help="States of donors that were refused: not readable, or too different from those of other members.",
        labels={"reason": ("unreadable", *StateFault)},
        used_by="Does somebody give poisoned or useless state to newcomers?",
    ),
    Metric(
        name="state_bytes_total",
        kind="counter",
        help="Bytes of training state sent to joiners and received from donors.",
        labels={"direction": _DIRECTIONS},
        used_by="How much of the line goes into downloads?",
    ),
    Metric(
        name="checkpoint_writes_total",
        kind="counter",
        help="Attempts to write a checkpoint.",
        labels={"outcome": ("ok", "failed")},
        used_by="Are checkpoints written?",
    ),
    Metric(
        name="checkpoint_last_success_timestamp_seconds",
        kind="gauge",
        help="Unix time of the newest checkpoint; 0 before the first.",
        used_by="How much work would a crash lose?",
    ),
    *LINE_METRICS,
    Metric(
        name="eventloop_lag_seconds",
        kind="histogram",
        help="How late the daemon's event loop woke up from a timed sleep.",
        buckets=_LAG_BUCKETS,
        used_by="Is the daemon starved or blocked?",
    ),
    Metric(
        name="flight_recorder_entries",
        kind="gauge",
        help="Events of the core held for a dump; between half of log.flight_entries and all of it once it has been full.",
        used_by="How far back would a dump reach?",
    ),
    Metric(
        name="flight_recorder_bytes",
        kind="gauge",
        help="Memory these events take, roughly; at most 32 MiB.",
        used_by="What does the flight recorder cost?",
    ),
    Metric(
        name="log_messages_total",
        kind="counter",
        help="Log messages written, by level.",
        labels={"level": _LEVELS},
        used_by="Are there errors to read about?",
    ),
)


def _series(metric: Metric) -> int:
    combinations = sum(1 for _ in label_sets(metric)) if metric.kind != "info" else 1
    return combinations * (len(metric.buckets) + 3 if metric.kind == "histogram" else 1)


def _row(metric: Metric) -> str:
    if metric.kind == "info":
        labels = ", ".join(metric.labels)
    else:
        labels = "; ".join(f"{name}: {' '.join(values)}" for name, values in metric.labels.items())
    return f"| `lowcomm_{metric.name}` | {metric.kind} | {labels} | {metric.help} | {metric.used_by} |"


def _document(metrics: Iterable[Metric]) -> str:
    """The reference page, in Markdown."""
    listed = tuple(metrics)
    series = sum(_series(metric) for metric in listed)
    lines = [
        "# Metrics",
        "",
        "Generated from `lowcomm_node/telemetry/catalogue.py` by `python -m lowcomm_node.telemetry.catalogue`; do not edit.",
        "",
        f"A node answers `GET /metrics` on its local port (`metrics.host`, `metrics.port`) with {series} series of its own,",
        "all of which exist from the start. `process_*` describe the daemon's process and `lowcomm_trainer_process_*`",
        "the trainer's (Linux). A gauge whose zero would be a lie is NaN until it is first measured.",
        "Counters fall to zero when the daemon starts again; a restart of the trainer does not show in them.",
        "",
        "| name | kind | labels | meaning | question it answers |",
        "|---|---|---|---|---|",
        *(_row(metric) for metric in listed),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    sys.stdout.write(_document(CATALOGUE))
