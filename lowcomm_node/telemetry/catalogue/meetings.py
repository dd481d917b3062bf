"""What comes of meetings."""

from lowcomm_node.core.commands import Role
from lowcomm_node.telemetry.catalogue.words import CODEC_WORK, FAILURES, MEETING_BUCKETS, PHASE_BUCKETS, PHASES, STREAMS
from lowcomm_node.telemetry.metric import UNMEASURED, Metric
from lowcomm_node.units import Codec, LinkKind

__all__ = ["MEETINGS_METRICS"]

MEETINGS_METRICS: tuple[Metric, ...] = (
    Metric(
        name="meetings_started_total",
        kind="counter",
        help="Meetings begun, by this node's role in them.",
        labels={"role": tuple(Role)},
        used_by="How often does the node meet?",
    ),
    Metric(
        name="meetings_completed_total",
        kind="counter",
        help="Meetings whose correction this node applied, knowing that its partner did.",
        labels={"role": tuple(Role)},
        used_by="How many meetings succeed?",
    ),
    Metric(
        name="meetings_by_link_total",
        kind="counter",
        help="Completed meetings by what they travelled over; grpc_reversed: who had started it was dialled for it.",
        labels={"link": tuple(LinkKind)},
        used_by="How do nodes that cannot be dialled take part?",
    ),
    Metric(
        name="meetings_failed_total",
        kind="counter",
        help="Meetings that ended with nothing applied, by reason.",
        labels={"reason": FAILURES},
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
        unit="seconds",
        help="Time from the first message of a completed meeting to its end.",
        buckets=MEETING_BUCKETS,
        used_by="How long does a meeting take?",
    ),
    Metric(
        name="meeting_phase_duration_seconds",
        kind="histogram",
        unit="seconds",
        help="Time that this end of a completed meeting spent in each of its phases. Who initiates: encoding, offered (waits for the answer), closing, closed (waits for the verdict), settling; who answers: answering, answered (waits for the close), applying, settled (waits for the confirmation).",
        labels={"phase": PHASES},
        buckets=PHASE_BUCKETS,
        used_by="What does a meeting wait for: the own trainer, or the partner and the line?",
    ),
    Metric(
        name="meeting_last_success_timestamp_seconds",
        kind="gauge",
        unit="seconds",
        help="Unix time of the last completed meeting; 0 before the first.",
        used_by="Has the node lost the swarm?",
    ),
    Metric(
        name="meeting_correction_norm",
        kind="gauge",
        help="Frobenius norm of the estimated difference from the last partner before clipping, by stream of state.",
        labels={"stream": STREAMS},
        initial=UNMEASURED,
        used_by="Do replicas stay together?",
    ),
    Metric(
        name="meeting_corrections_total",
        kind="counter",
        help="Corrections of meetings applied by this node, by stream of state.",
        labels={"stream": STREAMS},
        used_by="How often is each stream exchanged? Share that is clipped.",
    ),
    Metric(
        name="meeting_corrections_clipped_total",
        kind="counter",
        help="Corrections of meetings that were scaled down because one end found them too large, by stream of state.",
        labels={"stream": STREAMS},
        used_by="Is somebody far off or hostile? Is meeting.clip_ratio too low?",
    ),
    Metric(
        name="meeting_captured_energy_total",
        kind="counter",
        help="Sum over corrections of the squared norm of C, the part of the difference from the partner that a meeting moved, before clipping; only where the codec tells the whole difference.",
        labels={"stream": STREAMS, "codec": tuple(Codec)},
        used_by="Captured energy: divide by meeting_difference_energy_total. What is missing to 1 is the codec's error.",
    ),
    Metric(
        name="meeting_difference_energy_total",
        kind="counter",
        help="Sum over corrections of the squared norm of D, the whole difference from the partner as the meeting tells it: without bias for sparse and dense, by a model for ab, nothing for rank1.",
        labels={"stream": STREAMS, "codec": tuple(Codec)},
        used_by="Captured energy: share of it that meetings moved.",
    ),
    Metric(
        name="meeting_progress_gap_steps_total",
        kind="counter",
        unit="steps",
        help="Sum over corrections of how far the progress of the partner was from the own one.",
        labels={"stream": STREAMS},
        used_by="Staleness: divide by meeting_corrections_total.",
    ),
    Metric(
        name="codec_work_total",
        kind="counter",
        help="Parts of meetings, a stream each, that the trainer has worked on: what was made or read (offer, answer, close; finish: the answerer's reading of the close) or put into the state (apply).",
        labels={"operation": CODEC_WORK, "codec": tuple(Codec)},
        used_by="How often is each codec at work?",
    ),
    Metric(
        name="codec_work_seconds_total",
        kind="counter",
        unit="seconds",
        help="Time the trainer took for that; on a GPU, what it has only been asked to do counts with the next operation that reads something back.",
        labels={"operation": CODEC_WORK, "codec": tuple(Codec)},
        used_by="What does each codec cost? Divide by codec_work_total.",
    ),
)
