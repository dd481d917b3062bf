"""What goes over the line."""

from lowcomm_node.telemetry.catalogue.words import DIRECTIONS, STREAMS
from lowcomm_node.telemetry.metric import Metric
from lowcomm_node.units import Codec

__all__ = ["WIRE_METRICS"]

WIRE_METRICS: tuple[Metric, ...] = (
    Metric(
        name="wire_bytes_total",
        kind="counter",
        unit="bytes",
        help="Payload bytes of meetings, failed ones included.",
        labels={"direction": DIRECTIONS, "stream": STREAMS, "codec": tuple(Codec)},
        used_by="Traffic; bytes per token; compression.",
    ),
    Metric(
        name="wire_raw_bytes_total",
        kind="counter",
        unit="bytes",
        help="Bytes that meetings whose correction was applied here would have moved each way as whole fp32 tensors.",
        labels={"stream": STREAMS, "codec": tuple(Codec)},
        used_by="Compression: divide by wire_bytes_total of one direction.",
    ),
    Metric(
        name="state_bytes_total",
        kind="counter",
        unit="bytes",
        help="Bytes of training state sent to joiners and received from donors.",
        labels={"direction": DIRECTIONS},
        used_by="How much of the line goes into downloads?",
    ),
    Metric(
        name="line_bytes_total",
        kind="counter",
        unit="bytes",
        help="Bytes of meetings and downloads that went through the node's share of the line, framing of messages included.",
        labels={"direction": DIRECTIONS},
        used_by="What does the node cost its owner? What is not payload?",
    ),
    Metric(
        name="line_closed",
        kind="gauge",
        help="1 in quiet hours and while a month's budget has to be saved: nothing new is sent or fetched.",
        used_by="Why does this node not meet anybody?",
    ),
    Metric(
        name="line_month_bytes",
        kind="gauge",
        unit="bytes",
        help="Bytes of meetings and downloads in the current calendar month, both directions, earlier lives of the node included.",
        used_by="Does the node keep to its owner's budget?",
    ),
)
