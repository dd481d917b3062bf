"""What the trainer's desk holds of a meeting that waits for more from the partner."""

from dataclasses import dataclass

from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.train.frozen import Frozen
from lowcomm_node.train.payloads import AnyCorrection, AnyHalf

__all__ = ["Answered", "Checked", "Held", "Offered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """On the initiator, until the answer."""

    plans: tuple[StreamPlan, ...]
    parts: tuple[bytes, ...]
    progress_steps: float
    weight: float
    """How much this node counts in the meeting."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One stream's correction, known to be finite, and what multiple of it both ends apply."""

    plan: StreamPlan
    correction: AnyCorrection
    norm: float
    scale: float
    frozen: Frozen | None
    """In whose coordinates the correction is; kept here, for others may be taken before it is applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """On the initiator, between close and verdict."""

    corrections: tuple[Checked, ...]
    progress_shift: float
    share: float
    """By how much of the mixing weight this end moves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """On the answerer, between answer and close."""

    plans: tuple[StreamPlan, ...]
    halves: tuple[AnyHalf, ...]
    clip_norms: tuple[float, ...]
    """As the answer has them."""
    progress_shift: float
    share: float
    """By how much of the mixing weight this end moves."""
