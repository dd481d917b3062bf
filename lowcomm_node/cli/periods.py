"""What a manifest means for the line: which streams two nodes exchange, how often and why, and how much they send."""

from lowcomm_node.cli.words import size
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.streams import Period, periods
from lowcomm_node.units import Dtype, Stream

__all__ = ["payload_text", "period_lines", "periods_text"]

_NAMES = {
    Stream.PARAMS: "weights (params)",
    Stream.EXP_AVG: "first moment (exp_avg)",
    Stream.EXP_AVG_SQ: "second moment (exp_avg_sq)",
    Stream.MOMENTUM: "momentum",
    Stream.BASIS: "basis",
}


def period_lines(manifest: Manifest) -> list[str]:
    """A line per stream: its name, how often a node starts a meeting for it, and the reason."""
    rows = [(_NAMES[period.stream], _often(period), period.reason) for period in periods(manifest)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:<{widths[0]}}  {often:<{widths[1]}}  {reason}" for name, often, reason in rows]


def periods_text(manifest: Manifest) -> str:
    """The streams that are exchanged, in one line: ``params every 5 steps, exp_avg_sq every 69 steps``."""
    return ", ".join(f"{period.stream} {_often(period)}" for period in periods(manifest) if period.every_steps)


def payload_text(manifest: Manifest) -> str:
    """What the weights take in one meeting, by budget and number format; scales and checksums apart."""
    meeting = manifest.meeting
    whole = size(manifest.model.num_parameters * Dtype(meeting.dtype).bits / 8)
    if meeting.codec == "dense":
        return f"about {whole} each way for the weights, whole"
    text = f"at most {size(manifest.budget_bytes)} each way for the weights"
    if meeting.dense_last_ratio:
        text += f"; about {whole}, whole, in the last {meeting.dense_last_ratio * 100:g}% of the run"
    return text


def _often(period: Period) -> str:
    match period.every_steps:
        case 0:
            return "never"
        case 1:
            return "every step"
        case steps:
            return f"every {steps:,} steps"
