"""The dashboard of a whole swarm, for whoever runs one."""

from deploy.grafana.build import Dashboard, Query, Row
from deploy.grafana.panels import heatmap, stat, table, timeseries
from deploy.grafana.select import JOB, RATE, RUN, of_run, per_second, quantile

__all__ = ["SWARM"]

_BAD_BELOW = ((None, "red"), (0.8, "orange"), (0.95, "green"))
_NODE_LINK = "/d/lowcomm-node?var-instance=${__data.fields.instance}&var-datasource=${datasource}&${__url_time_range}"

_COMPLETED = f"sum({per_second(of_run('lowcomm_meetings_completed_total'), '15m')})"
_FAILED = f"""sum({per_second(of_run("lowcomm_meetings_failed_total", 'reason!~"busy|yielded"'), "15m")})"""
_SENT = f"""sum({per_second(of_run("lowcomm_wire_bytes_total", 'direction="sent"'))})"""
_RAW = f"sum({per_second(of_run('lowcomm_wire_raw_bytes_total'))})"
_TOKENS = f"sum({per_second(of_run('lowcomm_train_tokens_total'))})"
_PROGRESS = of_run("lowcomm_train_progress_steps")
_PARAMS = 'stream="params"'


def _sum_by(label: str, metric: str, over: str = RATE) -> str:
    return f"sum by ({label}) ({per_second(of_run(metric), over)})"


_AT_A_GLANCE = Row(
    title="At a glance",
    panels=(
        stat("Nodes training", "Nodes whose trainer takes steps.", "none",
             f"""sum({of_run("lowcomm_node_state", 'state="training"')})"""),
        stat("Tokens per second", "All nodes together.", "short", _TOKENS),
        stat("Loss", "Median over nodes of the training loss, nats per token.", "none",
             f"quantile(0.5, {of_run('lowcomm_train_loss')} >= 0)"),
        stat("Meeting success", "Of those that did not find their partner busy or in a meeting with this node, over 15 minutes.", "percentunit",
             f"{_COMPLETED} / ({_COMPLETED} + {_FAILED})", steps=_BAD_BELOW),
        stat("Bytes per token", "Payload of meetings for each token trained on.", "bytes", f"{_SENT} / {_TOKENS}"),
        stat("Compression", "Whole fp32 tensors over what was sent for them.", "none", f"{_RAW} / {_SENT}"),
        stat("Progress", "Mean swarm progress over the run's length.", "percentunit",
             f"avg({_PROGRESS}) / max({of_run('lowcomm_run_total_steps')})"),
        stat("Alerts", "Firing now.", "none",
             f"""count({of_run("ALERTS", 'alertstate="firing"')}) or vector(0)""", steps=((None, "green"), (1, "red"))),
    ),
)  # fmt: skip

_TRAINING = Row(
    title="Training",
    panels=(
        timeseries("Loss by node", "Training loss of each node, and the median.", "none",
                   Query(expr=of_run("lowcomm_train_loss"), legend="{{instance}}"),
                   Query(expr=f"quantile(0.5, {of_run('lowcomm_train_loss')} >= 0)", legend="median")),
        timeseries("Loss on held-out text", "Newest validation loss of each node.", "none",
                   Query(expr=of_run("lowcomm_train_validation_loss"), legend="{{instance}}")),
        timeseries("Tokens per second by node", "Stacked: the height is the swarm's speed.", "short",
                   Query(expr=_sum_by("instance", "lowcomm_train_tokens_total"), legend="{{instance}}"), is_stacked=True),
        timeseries("Step time", "Inner steps of all nodes, meetings not counted.", "s",
                   Query(expr=quantile(0.5, of_run("lowcomm_train_step_duration_seconds_bucket")), legend="median"),
                   Query(expr=quantile(0.95, of_run("lowcomm_train_step_duration_seconds_bucket")), legend="95 %")),
        timeseries("Time not spent training", "Mean over nodes. Meetings must not be in it: training never waits for the network. Exchange is the trainer's own work for meetings.", "percentunit",
                   Query(expr=f"avg by (cause) ({per_second(of_run('lowcomm_train_blocked_seconds_total'))})", legend="waits: {{cause}}"),
                   Query(expr=f"avg({per_second(of_run('lowcomm_train_exchange_seconds_total'))})", legend="exchange"), is_stacked=True),
        timeseries("Gradient norm", "Before clipping.", "none",
                   Query(expr=of_run("lowcomm_train_gradient_norm"), legend="{{instance}}")),
    ),
)  # fmt: skip

_MEETINGS = Row(
    title="Meetings",
    panels=(
        timeseries("Outcomes", "Ends of meetings per second; each meeting has two. Half ones should stay at 0.", "ops",
                   Query(expr=f"sum({per_second(of_run('lowcomm_meetings_completed_total'))})", legend="completed"),
                   Query(expr=f"""sum({per_second(of_run("lowcomm_meetings_failed_total", 'reason=~"busy|yielded"'))})""", legend="busy"),
                   Query(expr=f"""sum({per_second(of_run("lowcomm_meetings_failed_total", 'reason!~"busy|yielded"'))})""", legend="failed"),
                   Query(expr=f"sum({per_second(of_run('lowcomm_meetings_half_total'))})", legend="half"), is_stacked=True),
        timeseries("Why meetings fail", "The most frequent reasons.", "ops",
                   Query(expr=f"topk(6, {_sum_by('reason', 'lowcomm_meetings_failed_total')})", legend="{{reason}}")),
        timeseries("What meetings travel over", "Completed ones.", "ops",
                   Query(expr=_sum_by("link", "lowcomm_meetings_by_link_total"), legend="{{link}}"), is_stacked=True),
        heatmap("How long meetings take", "Completed ones, from first message to end.", "s",
                f"sum by (le) (increase({of_run('lowcomm_meeting_duration_seconds_bucket')}[{RATE}]))"),
        timeseries("Phases of meetings", "Mean time that an end of a completed meeting spends in each; encoding, closing, settling, answering and applying are the trainers' own, the others wait for a partner and the line.", "s",
                   Query(expr=f"{_sum_by('phase', 'lowcomm_meeting_phase_duration_seconds_sum', '15m')} / ({_sum_by('phase', 'lowcomm_meeting_phase_duration_seconds_count', '15m')} > 0)", legend="{{phase}}")),
        timeseries("Meetings begun", "By the role of the node in them.", "ops",
                   Query(expr=_sum_by("role", "lowcomm_meetings_started_total"), legend="{{role}}")),
        timeseries("Since the last meeting", "Of each node; 0 before its first.", "s",
                   Query(expr=f"(time() - {of_run('lowcomm_meeting_last_success_timestamp_seconds')}) * ({of_run('lowcomm_meeting_last_success_timestamp_seconds')} > bool 0)", legend="{{instance}}")),
    ),
)  # fmt: skip

_AGREEMENT = Row(
    title="Agreement",
    panels=(
        timeseries("Spread of the weights", "Root mean square distance of a weight from the swarm's mean, as nodes estimate it from each other's sketches of one mark.", "none",
                   Query(expr=f"sqrt(avg(({of_run('lowcomm_swarm_spread')} >= 0) ^ 2))", legend="mean over nodes"),
                   Query(expr=f"max({of_run('lowcomm_swarm_spread')} >= 0)", legend="largest estimate")),
        timeseries("Correction norm", "Largest |C| of a node's last meeting, by stream of state.", "none",
                   Query(expr=f"max by (stream) ({of_run('lowcomm_meeting_correction_norm')} >= 0)", legend="{{stream}}"), is_logarithmic=True),
        timeseries("Captured energy", "Share of the difference from the partner that a meeting moved.", "percentunit",
                   Query(expr=f"{_sum_by('stream', 'lowcomm_meeting_captured_energy_total', '15m')} / ({_sum_by('stream', 'lowcomm_meeting_difference_energy_total', '15m')} > 0)", legend="{{stream}}")),
        timeseries("Clipped corrections", "Share that one end found too large.", "percentunit",
                   Query(expr=f"{_sum_by('stream', 'lowcomm_meeting_corrections_clipped_total', '15m')} / ({_sum_by('stream', 'lowcomm_meeting_corrections_total', '15m')} > 0)", legend="{{stream}}")),
        timeseries("Progress apart", "Steps of swarm progress between the node that is ahead and the one behind, and between two that meet.", "none",
                   Query(expr=f"max({_PROGRESS}) - min({_PROGRESS})", legend="first to last"),
                   Query(expr=f"""sum({per_second(of_run("lowcomm_meeting_progress_gap_steps_total", _PARAMS), "15m")}) / sum({per_second(of_run("lowcomm_meeting_corrections_total", _PARAMS), "15m")})""", legend="partners, mean")),
        timeseries("Outer steps", "Local heavy-ball steps per second.", "ops",
                   Query(expr=f"sum({per_second(of_run('lowcomm_outer_steps_total'))})", legend="outer steps")),
    ),
)  # fmt: skip

_MEMBERS = Row(
    title="Members",
    panels=(
        timeseries("Others known", "Mean over nodes, by what a node thinks of them.", "none",
                   Query(expr=f"avg by (state) ({of_run('lowcomm_peers')})", legend="{{state}}")),
        timeseries("Reachability", "Nodes by how others get to them.", "none",
                   Query(expr=f"sum by (reachability) ({of_run('lowcomm_reachability')})", legend="{{reachability}}"), is_stacked=True),
        timeseries("What became of members", "In an hour, in the eyes of the average node.", "none",
                   Query(expr=f"avg by (event) (increase({of_run('lowcomm_peer_events_total')}[1h]))", legend="{{event}}")),
        timeseries("Trouble with others", "Refused messages, and peers put into quarantine, per second.", "ops",
                   Query(expr=f"sum({per_second(of_run('lowcomm_messages_rejected_total'))})", legend="refused"),
                   Query(expr=f"sum({per_second(of_run('lowcomm_quarantines_total'))})", legend="quarantined")),
        table("Nodes", "Click a node to see it alone.", {
            "Up": (f"max by (instance, version, revision) ({of_run('lowcomm_build_info')})", "none"),
            "Loss": (f"max by (instance) ({of_run('lowcomm_train_loss')})", "none"),
            "Tokens/s": (f"sum by (instance) ({per_second(of_run('lowcomm_train_tokens_total'))})", "short"),
            "Progress": (f"max by (instance) ({_PROGRESS})", "none"),
            "Meetings": (f"sum by (instance) ({of_run('lowcomm_meetings_completed_total')})", "none"),
            "Sent": (f"""sum by (instance) ({per_second(of_run("lowcomm_line_bytes_total", 'direction="sent"'))})""", "Bps"),
            "Others reachable": (f"""max by (instance) ({of_run("lowcomm_peers", 'state="reachable"')})""", "none"),
        }, keep=("instance", "version", "revision"), link=_NODE_LINK),
    ),
)  # fmt: skip

SWARM = Dashboard(
    uid="lowcomm-swarm",
    title="LowComm: swarm",
    description="All nodes of a run that this Prometheus scrapes: what they learn, how they meet, how far they agree.",
    variables=(JOB, RUN),
    rows=(_AT_A_GLANCE, _TRAINING, _MEETINGS, _AGREEMENT, _MEMBERS),
)
