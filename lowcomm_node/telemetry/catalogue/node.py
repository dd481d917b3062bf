"""What a node is and how it is."""

from lowcomm_node.core.owner import PauseReason
from lowcomm_node.telemetry.catalogue.words import LAG_BUCKETS, LEVELS, MEMORIES, PLACES, STATES
from lowcomm_node.telemetry.metric import UNMEASURED, Metric

__all__ = ["NODE_METRICS"]

NODE_METRICS: tuple[Metric, ...] = (
    Metric(
        name="build_info",
        kind="info",
        help="What is running here: versions, the git commit as far as it is known, and the CUDA that torch is built for (unknown until the trainer has said it, none for CPUs only).",
        labels={"version": (), "revision": (), "python": (), "torch": (), "cuda": ()},
        used_by="Do all nodes run the same version?",
    ),
    Metric(
        name="node_info",
        kind="info",
        help="Who this node is and what it takes part in; run is the run's id, which discovery (/sd) gives each target as run_id.",
        labels={"peer_id": (), "run": (), "run_name": (), "codec": (), "device": ()},
        is_explored=True,
        used_by="Join it to other metrics on the target's labels (job, run_id, instance) to select by node.",
    ),
    Metric(
        name="node_state",
        kind="gauge",
        help="1 for the state of its life the node is in, 0 for the others.",
        labels={"state": STATES},
        used_by="What is the node doing? Has it failed?",
    ),
    Metric(
        name="paused_seconds_total",
        kind="counter",
        unit="seconds",
        help="Time this node has left its machine to its owner, by the first reason that held.",
        labels={"reason": tuple(PauseReason)},
        used_by="Why does it not train? How much of the day has the node?",
    ),
    Metric(
        name="run_total_steps",
        kind="gauge",
        unit="steps",
        help="Swarm progress at which the run ends.",
        initial=UNMEASURED,
        used_by="How far is the run?",
    ),
    Metric(
        name="leftovers_removed_total",
        kind="counter",
        help="What an earlier life of this node had left, found and removed at the start.",
        labels={"kind": ("process", "socket")},
        is_explored=True,
        used_by="Do killed nodes leave something behind?",
    ),
    Metric(
        name="eventloop_lag_seconds",
        kind="histogram",
        unit="seconds",
        help="How late the daemon's event loop woke up from a timed sleep.",
        buckets=LAG_BUCKETS,
        used_by="Is the daemon starved or blocked?",
    ),
    Metric(
        name="places_taken",
        kind="gauge",
        help="Places taken of those that there are at a time; who finds none left is turned away.",
        labels={"place": PLACES},
        used_by="Is the node too busy to answer?",
    ),
    Metric(
        name="places_limit",
        kind="gauge",
        help="Most places of each kind; 0 before there are any.",
        labels={"place": PLACES},
        used_by="Is the node too busy to answer?",
    ),
    Metric(
        name="memory_entries",
        kind="gauge",
        help="Entries of what the node keeps of others and of the past; something old goes for something new when it is full.",
        labels={"memory": MEMORIES},
        used_by="Does the node forget what it should still know?",
    ),
    Metric(
        name="memory_limit",
        kind="gauge",
        help="Most entries of each kind; 0 before there is any.",
        labels={"memory": MEMORIES},
        used_by="Does the node forget what it should still know?",
    ),
    Metric(
        name="flight_recorder_bytes",
        kind="gauge",
        unit="bytes",
        help="Memory these events take, roughly; at most 32 MiB.",
        used_by="What does the flight recorder cost?",
    ),
    Metric(
        name="log_messages_total",
        kind="counter",
        help="Log messages written, by level.",
        labels={"level": LEVELS},
        used_by="Are there errors to read about?",
    ),
)
