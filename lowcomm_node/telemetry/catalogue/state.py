"""The training state on its way to disk, to others and from them."""

from lowcomm_node.core.commands import HealReason
from lowcomm_node.core.fingerprint import StateFault
from lowcomm_node.telemetry.catalogue.words import CHECKPOINT_BUCKETS
from lowcomm_node.telemetry.metric import Metric

__all__ = ["STATE_METRICS"]

STATE_METRICS: tuple[Metric, ...] = (
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
        name="checkpoint_writes_total",
        kind="counter",
        help="Attempts to write a checkpoint.",
        labels={"outcome": ("ok", "failed")},
        used_by="Are checkpoints written?",
    ),
    Metric(
        name="checkpoint_duration_seconds",
        kind="histogram",
        unit="seconds",
        help="Time from asking for a checkpoint to its being durable; training goes on meanwhile.",
        buckets=CHECKPOINT_BUCKETS,
        used_by="What does a checkpoint cost?",
    ),
    Metric(
        name="checkpoints_bytes",
        kind="gauge",
        unit="bytes",
        help="Disk that all checkpoints take together, those that were set aside included.",
        used_by="What do checkpoints cost the disk?",
    ),
    Metric(
        name="checkpoints_limit_bytes",
        kind="gauge",
        unit="bytes",
        help="Most that they may take (checkpoint.max_bytes); 0: no limit.",
        used_by="How far are checkpoints from their cap?",
    ),
    Metric(
        name="checkpoint_last_success_timestamp_seconds",
        kind="gauge",
        unit="seconds",
        help="Unix time of the newest checkpoint; 0 before the first.",
        used_by="How much work would a crash lose?",
    ),
)
