"""AB-training, in runs whose outer method it is."""

from lowcomm_node.telemetry.catalogue.words import LAYERS
from lowcomm_node.telemetry.metric import UNMEASURED, Metric
from lowcomm_node.units import Factor

__all__ = ["AB_METRICS"]

AB_METRICS: tuple[Metric, ...] = (
    Metric(
        name="ab_rank_ratio",
        kind="gauge",
        unit="ratio",
        help="Rank that the split has left of the matrices of these layers, as a share of their whole rank; NaN while everything is trained whole.",
        labels={"layers": LAYERS},
        initial=UNMEASURED,
        needs="ab",
        used_by="Which layers keep how much rank?",
    ),
    Metric(
        name="ab_energy_kept_ratio",
        kind="gauge",
        unit="ratio",
        help="Share of the squared weights of these layers' matrices in the span of the frozen factors when they were taken, mean over matrices.",
        labels={"layers": LAYERS},
        initial=UNMEASURED,
        needs="ab",
        used_by="How much of the weights can still be trained?",
    ),
    Metric(
        name="ab_compression_ratio",
        kind="gauge",
        unit="ratio",
        help="Bytes of a dense exchange of all parameters over those of one in role, for the factor that this node trains.",
        labels={"factor": tuple(Factor)},
        initial=UNMEASURED,
        needs="ab",
        used_by="What does a role save, and how many nodes train which factor?",
    ),
)
