"""The dashboard of one node, for whoever looks after it."""

from deploy.grafana.build import Dashboard, Query, Row
from deploy.grafana.panels import stat, states, timeseries
from deploy.grafana.select import INSTANCE, JOB, RATE, RUN, of_node, of_run, per_second, quantile

__all__ = ["NODE"]


def _sum_by(label: str, metric: str) -> str:
    return f"sum by ({label}) ({per_second(of_node(metric))})"


def _over_15m(label: str, metric: str) -> str:
    """Meetings are minutes apart."""
    return f"sum by ({label}) ({per_second(of_node(metric), '15m')})"


def _ago(metric: str) -> str:
    """Seconds since a time stamp; 0 as long as there is none."""
    return f"max((time() - {of_node(metric)}) * ({of_node(metric)} > bool 0))"


_NOW = Row(
    title="Now",
    panels=(
        stat("Loss", "Training loss, nats per token.", "none", f"max({of_node('lowcomm_train_loss')})"),
        stat("Tokens per second", "Of this node alone.", "short", f"sum({per_second(of_node('lowcomm_train_tokens_total'))})"),
        stat("Progress", "Swarm progress over the run's length.", "percentunit",
             f"max({of_node('lowcomm_train_progress_steps')}) / max({of_node('lowcomm_run_total_steps')})"),
        stat("Last step ago", "Minutes are a stalled trainer.", "s", _ago("lowcomm_train_last_step_timestamp_seconds")),
        stat("Last meeting ago", "0 before the first.", "s", _ago("lowcomm_meeting_last_success_timestamp_seconds")),
        stat("Others reachable", "Members that this node could meet now.", "none",
             f"""max({of_node("lowcomm_peers", 'state="reachable"')})"""),
        stat("This month", "Bytes of meetings and downloads, both ways.", "bytes", f"max({of_node('lowcomm_line_month_bytes')})"),
        stat("Trainer restarts", "In the last day.", "none",
             f"sum(increase({of_node('lowcomm_trainer_restarts_total')}[1d]))", steps=((None, "green"), (1, "orange"))),
        states("State", "What the node has been doing.", Query(expr=of_node("lowcomm_node_state"), legend="{{state}}"),
               colours={0: ("", "transparent"), 1: ("yes", "green")}),
    ),
)  # fmt: skip

_TRAINING = Row(
    title="Training",
    panels=(
        timeseries("Loss against the swarm", "This node, and the middle half of all nodes.", "none",
                   Query(expr=of_node("lowcomm_train_loss"), legend="{{instance}}"),
                   Query(expr=f"quantile(0.25, {of_run('lowcomm_train_loss')} >= 0)", legend="swarm, 25 %"),
                   Query(expr=f"quantile(0.75, {of_run('lowcomm_train_loss')} >= 0)", legend="swarm, 75 %"),
                   Query(expr=of_node("lowcomm_train_validation_loss"), legend="held-out text")),
        timeseries("Steps", "Inner steps, and local outer ones, per second.", "ops",
                   Query(expr=per_second(of_node("lowcomm_train_steps_total")), legend="inner"),
                   Query(expr=per_second(of_node("lowcomm_outer_steps_total")), legend="outer")),
        timeseries("Step time", "Meetings not counted.", "s",
                   Query(expr=quantile(0.5, of_node("lowcomm_train_step_duration_seconds_bucket")), legend="median"),
                   Query(expr=quantile(0.95, of_node("lowcomm_train_step_duration_seconds_bucket")), legend="95 %")),
        timeseries("Why it does not train", "Share of time; exchange is the trainer's own work for meetings.", "percentunit",
                   Query(expr=per_second(of_node("lowcomm_train_blocked_seconds_total")), legend="waits: {{cause}}"),
                   Query(expr=per_second(of_node("lowcomm_train_exchange_seconds_total")), legend="exchange"), is_stacked=True),
        timeseries("Left to its owner", "Share of time in which it was paused, by reason.", "percentunit",
                   Query(expr=per_second(of_node("lowcomm_paused_seconds_total")), legend="{{reason}}"), is_stacked=True),
        timeseries("Learning rate", "Of the latest step.", "none",
                   Query(expr=of_node("lowcomm_train_learning_rate"), legend="learning rate")),
        timeseries("Gradient", "Norm before clipping; steps skipped because something was not finite, in 5 minutes.", "none",
                   Query(expr=of_node("lowcomm_train_gradient_norm"), legend="norm"),
                   Query(expr=f"increase({of_node('lowcomm_train_nonfinite_steps_total')}[5m])", legend="skipped steps")),
    ),
)  # fmt: skip

_MEETINGS = Row(
    title="Meetings",
    panels=(
        timeseries("Outcomes", "Per second.", "ops",
                   Query(expr=_sum_by("role", "lowcomm_meetings_completed_total"), legend="completed as {{role}}"),
                   Query(expr=f"sum({per_second(of_node('lowcomm_meetings_failed_total'))})", legend="failed"),
                   Query(expr=f"sum({per_second(of_node('lowcomm_meetings_half_total'))})", legend="half"), is_stacked=True),
        timeseries("Why meetings fail", "The most frequent reasons.", "ops",
                   Query(expr=f"topk(6, {_sum_by('reason', 'lowcomm_meetings_failed_total')})", legend="{{reason}}")),
        timeseries("Phases", "Mean time that this end of a completed meeting spends in each: encoding, closing, settling, answering and applying wait for the own trainer, the others for the partner and the line; over 15 minutes.", "s",
                   Query(expr=f"{_over_15m('phase', 'lowcomm_meeting_phase_duration_seconds_sum')} / ({_over_15m('phase', 'lowcomm_meeting_phase_duration_seconds_count')} > 0)", legend="{{phase}}")),
        timeseries("Longest phases", "95 % are quicker; over 15 minutes. The three longest.", "s",
                   Query(expr=f"topk(3, {quantile(0.95, of_node('lowcomm_meeting_phase_duration_seconds_bucket'), 'phase').replace(RATE, '15m')} >= 0)", legend="{{phase}}")),
        timeseries("Members", "What became of others in the eyes of this node, in 5 minutes: a record that is new or has run out, no answer, and an end of suspicion.", "none",
                   Query(expr=f"increase({of_node('lowcomm_peer_events_total')}[5m])", legend="{{event}}")),
    ),
)  # fmt: skip

_STATE = Row(
    title="State and checkpoints",
    panels=(
        timeseries("Checkpoints", "Time to write one, and attempts per hour.", "s",
                   Query(expr=f"histogram_quantile(0.95, sum by (le) (increase({of_node('lowcomm_checkpoint_duration_seconds_bucket')}[1d]))) >= 0 or vector(0)", legend="time, 95 % of a day"),
                   Query(expr=_ago("lowcomm_checkpoint_last_success_timestamp_seconds"), legend="age of the newest")),
        timeseries("Checkpoints written", "In an hour.", "none",
                   Query(expr=f"increase({of_node('lowcomm_checkpoint_writes_total')}[1h])", legend="{{outcome}}")),
        timeseries("Checkpoints on disk", "All of them together, and what they may take; a cap of 0 is none.", "bytes",
                   Query(expr=of_node("lowcomm_checkpoints_bytes"), legend="used"),
                   Query(expr=of_node("lowcomm_checkpoints_limit_bytes"), legend="cap")),
        timeseries("State of others", "Downloads, refused states and healings in an hour.", "none",
                   Query(expr=f"increase({of_node('lowcomm_state_downloads_total')}[1h])", legend="downloads {{outcome}}"),
                   Query(expr=f"sum(increase({of_node('lowcomm_state_refusals_total')}[1h]))", legend="refused states"),
                   Query(expr=f"increase({of_node('lowcomm_heals_total')}[1h])", legend="healed: {{reason}}")),
    ),
)  # fmt: skip

_MACHINE = Row(
    title="Machine",
    panels=(
        timeseries("Memory", "Resident, of the daemon and of its trainer.", "bytes",
                   Query(expr=of_node("process_resident_memory_bytes"), legend="daemon"),
                   Query(expr=of_node("lowcomm_trainer_process_resident_memory_bytes"), legend="trainer")),
        timeseries("Processor", "Cores in use.", "none",
                   Query(expr=per_second(of_node("process_cpu_seconds_total")), legend="daemon"),
                   Query(expr=per_second(of_node("lowcomm_trainer_process_cpu_seconds_total")), legend="trainer")),
        timeseries("Event loop lag", "How late the daemon wakes up.", "s",
                   Query(expr=quantile(0.5, of_node("lowcomm_eventloop_lag_seconds_bucket")), legend="median"),
                   Query(expr=quantile(0.99, of_node("lowcomm_eventloop_lag_seconds_bucket")), legend="99 %")),
        timeseries("Log messages", "Written in 5 minutes, by level.", "none",
                   Query(expr=f"increase({of_node('lowcomm_log_messages_total')}[5m])", legend="{{level}}"), is_stacked=True),
        timeseries("Places", "Share that is taken; who finds none left is turned away.", "percentunit",
                   Query(expr=f"{of_node('lowcomm_places_taken')} / ({of_node('lowcomm_places_limit')} > 0)", legend="{{place}}")),
        timeseries("Memories", "Share that is in use; something old goes for something new when one is full.", "percentunit",
                   Query(expr=f"{of_node('lowcomm_memory_entries')} / ({of_node('lowcomm_memory_limit')} > 0)", legend="{{memory}}")),
        timeseries("Flight recorder", "Memory of what a dump would hold.", "bytes",
                   Query(expr=of_node("lowcomm_flight_recorder_bytes"), legend="memory")),
        timeseries("Memory is short", "Parts a batch is taken in; restarts of the trainer in an hour, by what ended it.", "none",
                   Query(expr=of_node("lowcomm_train_micro_batches"), legend="parts of a batch"),
                   Query(expr=f"increase({of_node('lowcomm_trainer_restarts_total')}[1h])", legend="{{reason}}")),
    ),
)  # fmt: skip

_GPU = Row(
    title="GPU",
    is_collapsed=True,
    panels=(
        timeseries("GPU memory", "In use, by whomever, and what there is.", "bytes",
                   Query(expr=of_node("lowcomm_gpu_memory_used_bytes"), legend="GPU {{gpu}} used"),
                   Query(expr=of_node("lowcomm_gpu_memory_size_bytes"), legend="GPU {{gpu}} size"), needs="gpu"),
        timeseries("Memory of torch", "On the trainer's first GPU: what tensors take, and what torch holds for them.", "bytes",
                   Query(expr=f"{of_node('lowcomm_torch_memory_allocated_bytes')} >= 0", legend="allocated"),
                   Query(expr=f"{of_node('lowcomm_torch_memory_reserved_bytes')} >= 0", legend="reserved"), needs="gpu"),
        timeseries("GPU utilization", "Share of time in which it computes.", "percentunit",
                   Query(expr=of_node("lowcomm_gpu_utilization_ratio"), legend="GPU {{gpu}}"), needs="gpu"),
        timeseries("GPU temperature", "Of the chip.", "celsius",
                   Query(expr=of_node("lowcomm_gpu_temperature_celsius"), legend="GPU {{gpu}}"), needs="gpu"),
        timeseries("GPU power", "From the energy it counts.", "watt",
                   Query(expr=per_second(of_node("lowcomm_gpu_energy_joules_total")), legend="GPU {{gpu}}"), needs="gpu"),
        timeseries("Tokens per joule", "Of the GPUs' energy.", "none",
                   Query(expr=f"sum({per_second(of_node('lowcomm_train_tokens_total'))}) / sum({per_second(of_node('lowcomm_gpu_energy_joules_total'))})", legend="tokens per joule"), needs="gpu"),
    ),
)  # fmt: skip

NODE = Dashboard(
    uid="lowcomm-node",
    title="LowComm: node",
    description="One node: what it does, how it compares with the swarm, and how its machine is.",
    variables=(JOB, RUN, INSTANCE),
    rows=(_NOW, _TRAINING, _MEETINGS, _STATE, _MACHINE, _GPU),
)
