"""The metrics of the owner's line, a part of the catalogue."""

from lowcomm_node.telemetry.metric import Metric

__all__ = ["LINE_METRICS"]

LINE_METRICS: tuple[Metric, ...] = (
    Metric(
        name="line_closed",
        kind="gauge",
        help="1 in quiet hours and while a month's budget has to be saved: nothing new is sent or fetched.",
        used_by="Why does this node not meet anybody?",
    ),
    Metric(
        name="line_month_bytes",
        kind="gauge",
        help="Bytes of meetings and downloads in the current calendar month, both directions, earlier lives of the node included.",
        used_by="Does the node keep to its owner's budget?",
    ),
)
