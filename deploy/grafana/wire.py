"""The dashboard of what goes over the lines, for whoever wonders what it costs."""

from deploy.grafana.build import Dashboard, Query, Row
from deploy.grafana.panels import stat, timeseries
from deploy.grafana.select import INSTANCES, JOB, RATE, RUN, of_node, per_second, quantile

__all__ = ["WIRE"]


def _sum_by(label: str, metric: str, *matchers: str, over: str = RATE) -> str:
    return f"sum by ({label}) ({per_second(of_node(metric, *matchers), over)})"


def _total(metric: str, *matchers: str) -> str:
    return f"sum({per_second(of_node(metric, *matchers))})"


_SENT = 'direction="sent"'
_PAYLOAD = _total("lowcomm_wire_bytes_total", _SENT)
_RAW = _total("lowcomm_wire_raw_bytes_total")
_STATE_SENT = _total("lowcomm_state_bytes_total", _SENT)
_LINE_SENT = _total("lowcomm_line_bytes_total", _SENT)

_AT_A_GLANCE = Row(
    title="At a glance",
    panels=(
        stat("Sent", "Meetings and downloads, framing included; the directory's own traffic is not counted.", "Bps", _LINE_SENT),
        stat("Received", "As sent.", "Bps", _total("lowcomm_line_bytes_total", 'direction="received"')),
        stat("Compression", "Whole fp32 tensors over what was sent for them.", "none", f"{_RAW} / {_PAYLOAD}"),
        stat("Bytes per token", "Payload of meetings for each token trained on.", "bytes",
             f"{_PAYLOAD} / {_total('lowcomm_train_tokens_total')}"),
        stat("Not payload", "Share of what is sent that is neither a meeting's payload nor state for joiners.", "percentunit",
             f"clamp_min(1 - ({_PAYLOAD} + {_STATE_SENT}) / {_LINE_SENT}, 0)"),
        stat("This month", "Bytes of all chosen nodes, both ways.", "bytes", f"sum({of_node('lowcomm_line_month_bytes')})"),
        stat("Lines closed", "Nodes in quiet hours or saving their month's budget.", "none", f"sum({of_node('lowcomm_line_closed')})"),
        stat("Refused", "Messages of others that were refused in an hour.", "none",
             f"sum(increase({of_node('lowcomm_messages_rejected_total')}[1h]))", steps=((None, "green"), (1, "orange"))),
    ),
)  # fmt: skip

_PAYLOADS = Row(
    title="Payload of meetings",
    panels=(
        timeseries("By direction", "All streams and codecs.", "Bps",
                   Query(expr=_sum_by("direction", "lowcomm_wire_bytes_total"), legend="{{direction}}")),
        timeseries("Sent, by stream and codec", "The largest ones.", "Bps",
                   Query(expr=f"topk(8, {_sum_by('stream, codec', 'lowcomm_wire_bytes_total', _SENT)})", legend="{{stream}} as {{codec}}")),
        timeseries("Compression by stream", "Whole fp32 tensors over what was sent for them. Failed meetings count only below the line.", "none",
                   Query(expr=f"{_sum_by('stream', 'lowcomm_wire_raw_bytes_total', over='15m')} / ({_sum_by('stream', 'lowcomm_wire_bytes_total', _SENT, over='15m')} > 0)", legend="{{stream}}"), is_logarithmic=True),
        timeseries("Captured energy", "Share of the difference from the partner that a meeting moved: what the bytes bought.", "percentunit",
                   Query(expr=f"{_sum_by('stream', 'lowcomm_meeting_captured_energy_total', over='15m')} / ({_sum_by('stream', 'lowcomm_meeting_difference_energy_total', over='15m')} > 0)", legend="{{stream}}")),
        timeseries("Captured energy by codec", "As beside it. What is missing to 1 is a codec's error; rank1 does not tell.", "percentunit",
                   Query(expr=f"{_sum_by('codec', 'lowcomm_meeting_captured_energy_total', over='15m')} / ({_sum_by('codec', 'lowcomm_meeting_difference_energy_total', over='15m')} > 0)", legend="{{codec}}")),
        timeseries("Compression by codec", "Whole fp32 tensors over what was sent for them.", "none",
                   Query(expr=f"{_sum_by('codec', 'lowcomm_wire_raw_bytes_total', over='15m')} / ({_sum_by('codec', 'lowcomm_wire_bytes_total', _SENT, over='15m')} > 0)", legend="{{codec}}"), is_logarithmic=True),
        timeseries("Time of the codecs", "Mean of the trainer's time for one stream of a meeting: making offer, answer and close, reading the close (finish), applying; over 15 minutes.", "s",
                   Query(expr=f"{_sum_by('operation, codec', 'lowcomm_codec_work_seconds_total', over='15m')} / ({_sum_by('operation, codec', 'lowcomm_codec_work_total', over='15m')} > 0)", legend="{{operation}} {{codec}}")),
        timeseries("Size of the streams", "Numbers that each stream of state consists of.", "short",
                   Query(expr=f"max by (stream) ({of_node('lowcomm_stream_values')})", legend="{{stream}}")),
        timeseries("Work for meetings", "Seconds of the trainer per second.", "percentunit",
                   Query(expr=per_second(of_node("lowcomm_train_exchange_seconds_total")), legend="{{instance}}")),
    ),
)  # fmt: skip

_AB_TRAINING = Row(
    title="AB-training",
    panels=(
        timeseries("Rank by layers", "What the split has left of the whole rank, mean over nodes.", "percentunit",
                   Query(expr=f"avg by (layers) ({of_node('lowcomm_ab_rank_ratio')} >= 0)", legend="{{layers}}"), needs="ab"),
        timeseries("Energy kept", "Share of the squared weights in the span of the frozen factors, when they were taken; mean over nodes.", "percentunit",
                   Query(expr=f"avg by (layers) ({of_node('lowcomm_ab_energy_kept_ratio')} >= 0)", legend="{{layers}}"), needs="ab"),
        timeseries("Compression in role", "A dense exchange of everything over one of the trained factor, by factor.", "none",
                   Query(expr=f"avg by (factor) ({of_node('lowcomm_ab_compression_ratio')} >= 0)", legend="{{factor}}"), needs="ab"),
        timeseries("Nodes by factor", "Those that train whole are not among them.", "none",
                   Query(expr=f"count by (factor) ({of_node('lowcomm_ab_compression_ratio')} >= 0)", legend="{{factor}}"), is_stacked=True, needs="ab"),
    ),
)  # fmt: skip

_REST = Row(
    title="Everything on the line",
    panels=(
        timeseries("Sent, by what it is", "State goes to joiners; framing is the rest.", "Bps",
                   Query(expr=_PAYLOAD, legend="meetings"), Query(expr=_STATE_SENT, legend="state"),
                   Query(expr=f"clamp_min({_LINE_SENT} - {_PAYLOAD} - {_STATE_SENT}, 0)", legend="framing"), is_stacked=True),
        timeseries("By node", "Sent.", "Bps",
                   Query(expr=_sum_by("instance", "lowcomm_line_bytes_total", _SENT), legend="{{instance}}"), is_stacked=True),
        timeseries("Refused messages", "The most frequent reasons.", "ops",
                   Query(expr=f"topk(6, {_sum_by('reason', 'lowcomm_messages_rejected_total')})", legend="{{reason}}")),
    ),
)  # fmt: skip

_DIRECTORY = Row(
    title="Directory and reachability",
    panels=(
        timeseries("Requests", "By operation and outcome.", "ops",
                   Query(expr=_sum_by("operation, outcome", "lowcomm_dht_requests_total"), legend="{{operation}} {{outcome}}")),
        timeseries("Time of a request", "95 % are quicker; over 15 minutes.", "s",
                   Query(expr=quantile(0.95, of_node("lowcomm_dht_request_duration_seconds_bucket"), "operation").replace(RATE, "15m"), legend="{{operation}}")),
        timeseries("Routing table", "Peers that each node's DHT knows.", "none",
                   Query(expr=of_node("lowcomm_dht_routing_table_peers"), legend="{{instance}}")),
        timeseries("Restarts of the DHT's daemon", "In an hour.", "none",
                   Query(expr=f"sum(increase({of_node('lowcomm_dht_restarts_total')}[1h]))", legend="restarts")),
        timeseries("Round trips", "To members, over connections that are up; over 15 minutes.", "s",
                   Query(expr=quantile(0.5, of_node("lowcomm_peer_rtt_seconds_bucket")).replace(RATE, "15m"), legend="median"),
                   Query(expr=quantile(0.95, of_node("lowcomm_peer_rtt_seconds_bucket")).replace(RATE, "15m"), legend="95 %")),
        timeseries("Clock", "How far each node's clock is ahead of the others'; negative: behind.", "s",
                   Query(expr=of_node("lowcomm_clock_ahead_seconds"), legend="{{instance}}")),
        timeseries("Bells", "Of nodes that cannot be dialled, at those that can.", "none",
                   Query(expr=f"sum by (side) ({of_node('lowcomm_bells')})", legend="{{side}}")),
        timeseries("Reachability", "Nodes by how others get to them.", "none",
                   Query(expr=f"sum by (reachability) ({of_node('lowcomm_reachability')})", legend="{{reachability}}"), is_stacked=True),
        timeseries("What meetings travel over", "Completed ones.", "ops",
                   Query(expr=_sum_by("link", "lowcomm_meetings_by_link_total"), legend="{{link}}"), is_stacked=True),
    ),
)  # fmt: skip

WIRE = Dashboard(
    uid="lowcomm-wire",
    title="LowComm: wire",
    description="What goes over the lines of nodes, what it is for, and what it buys.",
    variables=(JOB, RUN, INSTANCES),
    rows=(_AT_A_GLANCE, _PAYLOADS, _AB_TRAINING, _REST, _DIRECTORY),
)
