"""Alerts about what the trainer does."""

from deploy.prometheus.alert import NODE, RUN, Alert, Case, series

__all__ = ["TRAINING_ALERTS"]

_TRAINS = 'on (job, run_id, instance) lowcomm_node_state{state="training"} == 1'
_IS_TRAINING = series("lowcomm_node_state", "1x200", state="training")
_OTHERS = "bcd"


def _swarm(metric: str, own: str, others: str) -> dict[str, str]:
    """This node beside three others that are alike."""
    return dict([series(metric, own), *(series(metric, others, instance=other) for other in _OTHERS)])


TRAINING_ALERTS: tuple[Alert, ...] = (
    Alert(
        name="TrainingStalled",
        severity="critical",
        expr=f"""time() - lowcomm_train_last_step_timestamp_seconds > 300
and lowcomm_train_last_step_timestamp_seconds > 0
and {_TRAINS}""",
        minutes=2,
        summary="{{ $labels.instance }} has taken no step for five minutes although it should train.",
        cause="The trainer hangs (a GPU that has fallen off its bus, a driver, a file system that does not answer), or one step takes longer than five minutes.",
        look="The node's log for `trainer_lost` and `state_changed`; `lowcomm-node status`; the panels *State* and *Processor* of the node's dashboard; `nvidia-smi`.",
        cure="The daemon ends a trainer that is silent for `device.hang_after_s` by itself and starts another. If that repeats, restart the node, then the machine. If steps are simply long, raise the alert's limit.",
        fires=Case(
            history=dict([series("lowcomm_train_last_step_timestamp_seconds", "60x20"), _IS_TRAINING]),
            minutes=10,
            fires_for=(NODE,),
        ),
        silent=Case(
            history=dict([series("lowcomm_train_last_step_timestamp_seconds", "0+60x20"), _IS_TRAINING]), minutes=10
        ),
    ),
    Alert(
        name="LossNonFinite",
        severity="critical",
        expr="increase(lowcomm_train_nonfinite_steps_total[10m]) > 3",
        minutes=0,
        summary="{{ $labels.instance }} has skipped several steps because loss or gradient was not finite.",
        cause="Training diverges here: a learning rate that is too high, damaged weights, or a machine that computes wrongly.",
        look="*Gradient* and *Loss against the swarm* of the node's dashboard: is it this node alone? The log for `healing`.",
        cure="A node that stays unwell takes a donor's state by itself (see Heals). When all nodes have it, the run's learning rate is too high: start a new run with a lower one from an exported state.",
        fires=Case(
            history=dict([series("lowcomm_train_nonfinite_steps_total", "0+1x20")]), minutes=10, fires_for=(NODE,)
        ),
        silent=Case(history=dict([series("lowcomm_train_nonfinite_steps_total", "0 1 1x20")]), minutes=10),
    ),
    Alert(
        name="LossOutlier",
        severity="warning",
        expr="""abs((lowcomm_train_loss >= 0) - on (job, run_id) group_left () run:lowcomm_train_loss:median)
> on (job, run_id) group_left () (6 * run:lowcomm_train_loss:mad + 0.1)""",
        minutes=10,
        summary="{{ $labels.instance }} has a loss far from that of the other nodes.",
        cause="Other data than the rest of the swarm, a joiner that has not caught up, weights that have gone wrong, or arithmetic that is.",
        look="*Loss against the swarm* and *Loss on held-out text* of the node's dashboard: held-out text is the same for all, so a difference there is in the weights.",
        cure="If only the training loss differs, it is the data, and nothing is wrong. If the held-out loss differs for an hour, restart the node without its checkpoints, so that it takes a donor's state.",
        fires=Case(history=_swarm("lowcomm_train_loss", "5x30", "2x30"), minutes=20, fires_for=(NODE,)),
        silent=Case(history=_swarm("lowcomm_train_loss", "2.05x30", "2x30"), minutes=20),
    ),
    Alert(
        name="TrainingWaits",
        severity="warning",
        expr=f"instance:lowcomm_train_blocked:ratio_rate10m > 0.3 and {_TRAINS}",
        minutes=10,
        summary="{{ $labels.instance }} spends more than 30 % of its time waiting instead of training.",
        cause="Reading data is slower than training, or copying the state for checkpoints and joiners takes long.",
        look="*Why it does not train* of the node's dashboard names the cause: data, checkpoint or meeting.",
        cure="data: put it on a faster disk. checkpoint: raise `checkpoint.every_s`. meeting: see MeetingsBlockTraining.",
        fires=Case(
            history=dict([series("lowcomm_train_blocked_seconds_total", "0+30x40", cause="data"), _IS_TRAINING]),
            minutes=30,
            fires_for=(NODE,),
        ),
        silent=Case(
            history=dict([series("lowcomm_train_blocked_seconds_total", "0+6x40", cause="data"), _IS_TRAINING]),
            minutes=30,
        ),
    ),
    Alert(
        name="MeetingsBlockTraining",
        severity="warning",
        expr='sum by (job, run_id, instance) (rate(lowcomm_train_blocked_seconds_total{cause="meeting"}[10m])) > 0.02',
        minutes=10,
        summary="{{ $labels.instance }} waits for meetings, which should never happen.",
        cause="The pipe between daemon and trainer is slow: a machine without processor time or memory to spare, or a defect of ours.",
        look="*Processor*, *Memory* and *Event loop lag* of the node's dashboard; whether the machine swaps.",
        cure="Leave the daemon a core (`device.threads`). If the machine is idle, report it with `lowcomm-node debug dump`.",
        fires=Case(
            history=dict([series("lowcomm_train_blocked_seconds_total", "0+3x40", cause="meeting")]),
            minutes=30,
            fires_for=(NODE,),
        ),
        silent=Case(history=dict([series("lowcomm_train_blocked_seconds_total", "0+30x40", cause="data")]), minutes=30),
    ),
    Alert(
        name="Straggler",
        severity="info",
        expr=f"""sum by (job, run_id, instance) (rate(lowcomm_train_steps_total[15m]))
< on (job, run_id) group_left () (
  0.2 * quantile by (job, run_id) (0.5, sum by (job, run_id, instance) (rate(lowcomm_train_steps_total[15m])))
)
and {_TRAINS}""",
        minutes=30,
        summary="{{ $labels.instance }} takes less than a fifth of the steps of the median node.",
        cause="A slower machine, which is welcome; or one that has become slow: heat, another program, a batch taken in many parts.",
        look="*Step time*, *Processor*, *Memory is short* and *GPU temperature* of the node's dashboard.",
        cure="Nothing, when the machine is what it is: slow nodes do not hold up others. Otherwise give it back what it lacks.",
        fires=Case(
            history={**_swarm("lowcomm_train_steps_total", "0+1x90", "0+60x90"), **dict([_IS_TRAINING])},
            minutes=60,
            fires_for=(NODE,),
        ),
        silent=Case(
            history={**_swarm("lowcomm_train_steps_total", "0+30x90", "0+60x90"), **dict([_IS_TRAINING])}, minutes=60
        ),
    ),
    Alert(
        name="ProgressApart",
        severity="warning",
        expr=f"""abs(
  lowcomm_train_progress_steps
  - on (job, run_id) group_left () quantile by (job, run_id) (0.5, lowcomm_train_progress_steps)
) > 0.1 * lowcomm_run_total_steps
and {_TRAINS}""",
        minutes=15,
        summary="{{ $labels.instance }} reads another point of the schedule than the swarm.",
        cause="Meetings average progress, so a node that is far from the others has not met for long, or only others like itself: the swarm may be in two parts.",
        look="*Since the last meeting* and *Progress apart* of the swarm's dashboard; `lowcomm-node peers` on a node of each part: do they know each other?",
        cure="Give nodes of one part an address of the other (`--peers`). Mend what keeps the node from meeting (see MeetingsStale).",
        fires=Case(
            history={
                **_swarm("lowcomm_train_progress_steps", "100x60", "400x60"),
                **_swarm("lowcomm_run_total_steps", "1000x60", "1000x60"),
                **dict([_IS_TRAINING]),
            },
            minutes=30,
            fires_for=(NODE,),
        ),
        silent=Case(
            history={
                **_swarm("lowcomm_train_progress_steps", "350x60", "400x60"),
                **_swarm("lowcomm_run_total_steps", "1000x60", "1000x60"),
                **dict([_IS_TRAINING]),
            },
            minutes=30,
        ),
    ),
    Alert(
        name="TrainerRestarts",
        severity="warning",
        expr="sum by (job, run_id, instance) (increase(lowcomm_trainer_restarts_total[1h])) > 2",
        minutes=0,
        summary="The trainer of {{ $labels.instance }} keeps dying.",
        cause="Out of memory, a failing device, or somebody who ends it.",
        look="*Memory is short* of the node's dashboard for what ended it; the log for `trainer_lost`.",
        cure="out_of_memory: the node takes batches in more parts by itself; close what else uses the memory. device: see the driver's log (`dmesg`). killed: the system's memory killer, or a person.",
        fires=Case(
            history=dict([series("lowcomm_trainer_restarts_total", "0+1x60", reason="killed")]),
            minutes=30,
            fires_for=(NODE,),
        ),
        silent=Case(history=dict([series("lowcomm_trainer_restarts_total", "0x10 1x60", reason="killed")]), minutes=30),
    ),
    Alert(
        name="Heals",
        severity="warning",
        expr="sum by (job, run_id, instance) (increase(lowcomm_heals_total[1h])) > 0",
        minutes=0,
        summary="{{ $labels.instance }} has given up its own state and taken a donor's.",
        cause="Its state was unfit to meet with: not finite, or far from all partners. Wrong arithmetic of this machine is the likeliest cause when it repeats.",
        look="*State of others* of the node's dashboard for the reason; the log for `healing`; LossNonFinite and LossOutlier.",
        cure="Once is no trouble. Again and again: test the machine's memory, take back overclocking. A node that heals in vain ends itself.",
        fires=Case(
            history=dict([series("lowcomm_heals_total", "0x5 1x60", reason="nonfinite")]),
            minutes=20,
            fires_for=(NODE,),
        ),
        silent=Case(history=dict([series("lowcomm_heals_total", "0x60", reason="nonfinite")]), minutes=20),
    ),
    Alert(
        name="SpreadGrows",
        severity="warning",
        expr="run:lowcomm_swarm_spread:rms > 3 * max_over_time(run:lowcomm_swarm_spread:rms[6h] offset 1h)",
        minutes=15,
        summary="The replicas of run {{ $labels.run_id }} lie three times as far apart as they ever did in the last hours.",
        cause="Too few meetings succeed, too little of the difference is exchanged for the learning rate, or some node is far off.",
        look="*Spread of the weights*, *Captured energy*, *Outcomes* and *Clipped corrections* of the swarm's dashboard.",
        cure="Mend failing meetings first. One outlier: restart it without its checkpoints. All of them: the run needs a larger byte budget or shorter periods, which are fixed in its manifest; try the next one with `lowcomm-node simulate`.",
        fires=Case(history=dict([series("lowcomm_swarm_spread", "0.01x100 0.05x60")]), minutes=150, fires_for=(RUN,)),
        silent=Case(history=dict([series("lowcomm_swarm_spread", "0.01x100 0.02x60")]), minutes=150),
    ),
)
