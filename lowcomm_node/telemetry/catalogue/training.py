"""What the trainer does."""

from lowcomm_node.core.supervision import Cause
from lowcomm_node.telemetry.catalogue.words import BLOCKED_CAUSES, STEP_BUCKETS, STREAMS
from lowcomm_node.telemetry.metric import UNMEASURED, Metric

__all__ = ["TRAINING_METRICS"]

TRAINING_METRICS: tuple[Metric, ...] = (
    Metric(
        name="train_steps_total",
        kind="counter",
        unit="steps",
        help="Inner steps done by this node, those redone after a trainer restart included.",
        used_by="Steps per second; is training stalled?",
    ),
    Metric(
        name="train_tokens_total",
        kind="counter",
        unit="tokens",
        help="Tokens this node has trained on.",
        used_by="Tokens per second; bytes per token.",
    ),
    Metric(
        name="train_loss",
        kind="gauge",
        unit="nats",
        help="Mean training loss of the latest steps, in nats per token.",
        initial=UNMEASURED,
        used_by="Is it learning? Is this node an outlier?",
    ),
    Metric(
        name="train_validation_loss",
        kind="gauge",
        unit="nats",
        help="Newest loss on held-out text, in nats per token.",
        initial=UNMEASURED,
        used_by="Is it learning, on text no node trains on?",
    ),
    Metric(
        name="train_validation_accuracy_ratio",
        kind="gauge",
        unit="ratio",
        help="Share of held-out examples that are answered right, newest look; NaN for language models and for tasks that do not say.",
        initial=UNMEASURED,
        used_by="How often is it right, on examples no node trains on?",
        is_explored=True,
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
        unit="steps",
        help="Steps skipped because the loss or the gradient was not finite.",
        used_by="Does training diverge?",
    ),
    Metric(
        name="train_step_duration_seconds",
        kind="histogram",
        unit="seconds",
        help="Duration of an inner step, meetings not counted; steps that were reported together count with their mean.",
        buckets=STEP_BUCKETS,
        used_by="Median and tail of the step time.",
    ),
    Metric(
        name="train_blocked_seconds_total",
        kind="counter",
        unit="seconds",
        help="Time the trainer wanted to train and waited instead. For a meeting this stays 0.",
        labels={"cause": BLOCKED_CAUSES},
        used_by="Does training ever wait, and for what?",
    ),
    Metric(
        name="train_exchange_seconds_total",
        kind="counter",
        unit="seconds",
        help="The trainer's own compute for encoding and applying what meetings exchange.",
        used_by="Share of the machine that meetings cost.",
    ),
    Metric(
        name="train_last_step_timestamp_seconds",
        kind="gauge",
        unit="seconds",
        help="Unix time at which a step was last reported; 0 before the first.",
        used_by="Is training stalled?",
    ),
    Metric(
        name="train_progress_steps",
        kind="gauge",
        unit="steps",
        help="Swarm progress as this node knows it: inner steps of the average node.",
        used_by="Do nodes read the same point of the schedule?",
    ),
    Metric(
        name="train_micro_batches",
        kind="gauge",
        help="Parts that a batch is taken in; more than one where the memory does not hold a whole one.",
        initial=UNMEASURED,
        used_by="Is the node slower for want of memory?",
    ),
    Metric(
        name="outer_steps_total",
        kind="counter",
        unit="steps",
        help="Local outer (heavy-ball) steps.",
        used_by="Does the outer optimizer run?",
    ),
    Metric(
        name="trainer_restarts_total",
        kind="counter",
        help="Times the trainer process was started again after it had died, by what had ended it.",
        labels={"reason": tuple(Cause)},
        used_by="Does the trainer crash, and of what?",
    ),
    Metric(
        name="stream_values",
        kind="gauge",
        help="Numbers that a stream of state consists of; 0 where this run has no such stream.",
        labels={"stream": STREAMS},
        used_by="Size of the model.",
    ),
)
