"""The GPUs of this machine, where there are any and nvidia-ml-py is installed; and what torch takes of the one it trains on."""

from lowcomm_node.telemetry.catalogue.words import GPUS
from lowcomm_node.telemetry.metric import UNMEASURED, Metric

__all__ = ["GPU_METRICS"]

GPU_METRICS: tuple[Metric, ...] = (
    Metric(
        name="gpu_memory_used_bytes",
        kind="gauge",
        unit="bytes",
        help="Memory in use on a GPU, by whomever.",
        labels={"gpu": GPUS},
        needs="gpu",
        used_by="Is there room?",
    ),
    Metric(
        name="gpu_memory_size_bytes",
        kind="gauge",
        unit="bytes",
        help="Memory that a GPU has.",
        labels={"gpu": GPUS},
        needs="gpu",
        used_by="Is there room?",
    ),
    Metric(
        name="gpu_utilization_ratio",
        kind="gauge",
        unit="ratio",
        help="Share of the last moments in which the GPU computed.",
        labels={"gpu": GPUS},
        needs="gpu",
        used_by="Does the GPU work?",
    ),
    Metric(
        name="gpu_temperature_celsius",
        kind="gauge",
        unit="celsius",
        help="Temperature of a GPU.",
        labels={"gpu": GPUS},
        needs="gpu",
        used_by="Is it too hot?",
    ),
    Metric(
        name="gpu_energy_joules_total",
        kind="counter",
        unit="joules",
        help="Energy a GPU has used since this node started.",
        labels={"gpu": GPUS},
        needs="gpu",
        used_by="Power; tokens per joule.",
    ),
    Metric(
        name="torch_memory_allocated_bytes",
        kind="gauge",
        unit="bytes",
        help="GPU memory that the trainer's tensors take, on its first GPU; NaN on a CPU.",
        initial=UNMEASURED,
        used_by="What does training need?",
    ),
    Metric(
        name="torch_memory_reserved_bytes",
        kind="gauge",
        unit="bytes",
        help="GPU memory that torch holds for them, on the trainer's first GPU; NaN on a CPU.",
        initial=UNMEASURED,
        used_by="Is memory lost to fragments, between what is reserved and what is allocated?",
    ),
)
