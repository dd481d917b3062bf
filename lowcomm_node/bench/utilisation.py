"""What share of its time a node trains at the end of a slow line: arithmetic on a meeting's bytes and seconds.

Two ways to reckon it. Standing still: as methods do that wait, a node stops for each exchange, T = H t / (H t + x). Going on: as our
nodes do, steps go on while messages travel, and only the codecs' work takes time from them; a line too slow for the period
makes meetings rarer instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lowcomm_node.bench.traffic import ring_bytes
from lowcomm_node.settings.model import ModelConfig
from lowcomm_node.units import Dtype

__all__ = ["PUBLISHED", "PUBLISHED_MODEL", "LineFigures", "Meeting", "Published", "line_figures", "ring_seconds"]

_BITS_PER_MBIT = 1e6

PUBLISHED_MODEL = ModelConfig(vocab_size=50257, num_layers=6, num_heads=4, d_model=256, d_ff=768, context_length=512)
"""30.8 million parameters with a vocabulary of 50,257, as theirs."""


@dataclass(frozen=True, slots=True)
class Published:
    """Utilisation that others have measured: DiLoCo (Nesterov, all weights in fp32, NCCL over TCP) on four L40S of 4 x 512 tokens a step.

    Diloco-measured, README of 2026-08-18, the median of three runs each; step and window from its raw records (one of 200 Mbit/s).
    """

    every_steps: int = 128
    """H."""
    steps_in_window: int = 180
    """Counted in each run, with one exchange among them: by H alone the shares would be lower still."""
    step_s: float = 0.0263
    nodes: int = 4
    shares: Mapping[float, float] = field(
        default_factory=lambda: {50.0: 0.1155, 200.0: 0.3609, 1000.0: 0.7152, 5000.0: 0.8700}
    )
    """By Mbit/s."""

    def share_at(self, rate_mbit: float) -> float | None:
        """Their utilisation at this rate; None where they measured none."""
        return self.shares.get(rate_mbit)


PUBLISHED = Published()


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """One meeting about the parameters: payload bytes of its messages, and seconds of one core for them."""

    coding: str
    offer_bytes: int
    answer_bytes: int
    close_bytes: int
    initiator_s: float
    """Offer, close and correction."""
    answerer_s: float
    """Answer, last step and correction."""

    @property
    def payload_bytes(self) -> int:
        """Both directions; of two meetings, one begun and one answered, what a node sends."""
        return self.offer_bytes + self.answer_bytes + self.close_bytes

    @property
    def work_s(self) -> float:
        """Of both ends, one after the other; and what a node does in two meetings, one begun and one answered."""
        return self.initiator_s + self.answerer_s


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFigures:
    """One line, one time of a step."""

    rate_mbit: float
    step_s: float
    meeting_s: float
    """From the order to dial until the answerer's last word, codecs' work left out."""
    is_measured: bool
    """Over an emulated line; else reckoned from the rate that smaller lines gave."""
    standing_share: float
    """Training, of all time, if nodes stood still for a meeting every H steps."""
    ring_share: float
    """The same for an fp32 ring all-reduce of all weights that fills the line to the last bit."""
    published_share: float | None
    going_share: float | None
    """Training, of all time, as nodes do it: what is left beside the codecs' work. None where that work is not known."""
    steps_between: float
    """Own steps from one begun meeting to the next: the run's period, or what the line lets through."""
    line_share: float
    """Of the line, each way, that meetings take at this distance."""


def ring_seconds(parameters: int, nodes: int, rate_mbit: float) -> float:
    """What a ring all-reduce of so many fp32 numbers takes on a line that is full all the time."""
    return ring_bytes(parameters, nodes, Dtype.FP32.bits) * 8 / (rate_mbit * _BITS_PER_MBIT)


def line_figures(
    meeting: Meeting,
    *,
    parameters: int,
    rate_mbit: float,
    meeting_s: float,
    is_measured: bool,
    step_s: float,
    period_steps: int,
    is_codec_known: bool,
    published: Published = PUBLISHED,
) -> LineFigures:
    """What one line makes of meetings, for nodes whose step takes ``step_s`` and whose run has the period K = ``period_steps``.

    A node begins one meeting in a period and answers one: one offers while the other is offered to, so that both end in the time
    of one. ``is_codec_known``: the codecs work on the machine that the step's time is of; else their work is left out.
    """
    work_s = meeting.work_s if is_codec_known else 0.0
    standing_steps_s = published.every_steps * step_s
    # Training and codecs take turns; a meeting that outlasts them delays the next one.
    period_s = max(period_steps * step_s + work_s, meeting_s + work_s)
    steps_between = (period_s - work_s) / step_s
    ring_s = ring_seconds(parameters, published.nodes, rate_mbit)
    return LineFigures(
        rate_mbit=rate_mbit,
        step_s=step_s,
        meeting_s=meeting_s,
        is_measured=is_measured,
        standing_share=standing_steps_s / (standing_steps_s + meeting_s + work_s),
        ring_share=standing_steps_s / (standing_steps_s + ring_s),
        published_share=published.share_at(rate_mbit),
        going_share=1 - work_s / period_s if is_codec_known else None,
        steps_between=steps_between,
        line_share=meeting.payload_bytes * 8 / (rate_mbit * _BITS_PER_MBIT) / period_s,
    )
