"""Closed sets of label values, and bounds of histograms."""

from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Stream

__all__ = [
    "BLOCKED_CAUSES",
    "CHECKPOINT_BUCKETS",
    "CODEC_WORK",
    "DHT_BUCKETS",
    "DIRECTIONS",
    "FAILURES",
    "GPUS",
    "LAG_BUCKETS",
    "LAYERS",
    "LEVELS",
    "MEETING_BUCKETS",
    "MEMORIES",
    "OPERATIONS",
    "OTHER",
    "PHASES",
    "PHASE_BUCKETS",
    "PLACES",
    "REFUSALS",
    "RTT_BUCKETS",
    "STATES",
    "STEP_BUCKETS",
    "STREAMS",
]

OTHER = "other"
"""Label value for a word that is not in a closed set; it staying above zero means the set lacks a word."""

STATES = (
    "starting",
    "connecting",
    "syncing",
    "training",
    "finished",
    "pausing",
    "paused",
    "draining",
    "stopped",
    "failed",
)
BLOCKED_CAUSES = ("meeting", "data", "sync", "checkpoint")
STREAMS = tuple(Stream)
DIRECTIONS = ("sent", "received")
OPERATIONS = ("get", "put")
CODEC_WORK = ("offer", "answer", "close", "finish", "apply")
PHASES = (
    "encoding",
    "offered",
    "closing",
    "closed",
    "settling",
    "answering",
    "answered",
    "applying",
    "settled",
)
"""Of a meeting, as status has them: five of who initiates it, four of who answers."""
REFUSALS = (*RefusalReason, OTHER)
FAILURES = ("busy", "yielded", "unreachable", "disconnect", "timeout", "trainer", *REFUSALS)
LAYERS = ("attention", "mlp", "convolution", OTHER)
"""Of a model, as far as they have matrices that AB-training splits."""
LEVELS = ("debug", "info", "warning", "error", "critical")
GPUS = tuple(str(index) for index in range(8))
"""A machine with more shows its first ones."""

PLACES = (
    "bells",
    "calls",
    "dial_backs",
    "door",
    "downloads",
    "http",
    "libp2p_streams",
    "meetings",
    "probes",
    "rings",
    "seeking",
    "unsettled",
)
"""Of which there are so many at a time; who finds none left is turned away, or has to come back later."""
MEMORIES = (
    "answered",
    "askers",
    "channels",
    "clocks",
    "confirmations",
    "contacts",
    "desk_answered",
    "desk_initiated",
    "dial_askers",
    "flight_events",
    "frozen",
    "history",
    "members",
    "nonces",
    "offers",
    "punch_askers",
    "quarantine",
    "sessions",
    "slow_peers",
    "snapshots",
    "tally",
    "vitals",
)
"""What is kept of others and of the past; when it is full, something old goes for something new."""

RTT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MEETING_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
PHASE_BUCKETS = (0.05, 0.25, 1.0, 5.0)
"""Few: there are nine phases."""
DHT_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CHECKPOINT_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
