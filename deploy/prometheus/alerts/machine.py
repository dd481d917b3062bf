"""Alerts about a node's machine: disk, GPU, processor, and what the log says."""

from deploy.prometheus.alert import NODE, Alert, Case, series

__all__ = ["MACHINE_ALERTS"]

_BY_NODE = "by (job, run_id, instance)"
_TRAINS = 'on (job, run_id, instance) lowcomm_node_state{state="training"} == 1'
_IS_TRAINING = series("lowcomm_node_state", "1x300", state="training")
_GPU = {**NODE, "gpu": "0"}
_LAG = "lowcomm_eventloop_lag_seconds_bucket"

MACHINE_ALERTS: tuple[Alert, ...] = (
    Alert(
        name="CheckpointsFail",
        severity="warning",
        expr=f'sum {_BY_NODE} (increase(lowcomm_checkpoint_writes_total{{outcome="failed"}}[1h])) > 0',
        minutes=0,
        summary="{{ $labels.instance }} could not write a checkpoint.",
        cause="The disk is full or gone, or `checkpoint.max_bytes` leaves no room for one.",
        look="The log for `checkpoint_failed`, which says why; `df`.",
        cure="Make room. Training goes on meanwhile and older checkpoints stay; a crash would cost what was done since.",
        fires=Case(
            history=dict([series("lowcomm_checkpoint_writes_total", "0x5 1x60", outcome="failed")]),
            minutes=20,
            fires_for=(NODE,),
        ),
        silent=Case(history=dict([series("lowcomm_checkpoint_writes_total", "0+1x60", outcome="ok")]), minutes=20),
    ),
    Alert(
        name="CheckpointsStale",
        severity="warning",
        expr=f"""time() - lowcomm_checkpoint_last_success_timestamp_seconds > 7200
and lowcomm_checkpoint_last_success_timestamp_seconds > 0
and {_TRAINS}""",
        minutes=5,
        summary="The newest checkpoint of {{ $labels.instance }} is older than two hours.",
        cause="Writing fails (see CheckpointsFail), writing takes for ever, or `checkpoint.every_s` is that long.",
        look="*Checkpoints* of the node's dashboard.",
        cure="As CheckpointsFail. If the owner wants rarer ones, raise the alert's limit.",
        fires=Case(
            history=dict([series("lowcomm_checkpoint_last_success_timestamp_seconds", "600x200"), _IS_TRAINING]),
            minutes=150,
            fires_for=(NODE,),
        ),
        silent=Case(
            history=dict([series("lowcomm_checkpoint_last_success_timestamp_seconds", "0+60x200"), _IS_TRAINING]),
            minutes=150,
        ),
    ),
    Alert(
        name="GpuMemoryFull",
        severity="warning",
        expr="lowcomm_gpu_memory_used_bytes / lowcomm_gpu_memory_size_bytes > 0.97",
        minutes=10,
        summary="The memory of GPU {{ $labels.gpu }} of {{ $labels.instance }} is full.",
        cause="The model needs nearly all of it, or another program uses the GPU.",
        look="*GPU memory* of the node's dashboard; `nvidia-smi`.",
        cure="Close the other program, or let batches be taken in more parts (`device.micro_batches`); the node does so by itself when it runs out.",
        fires=Case(
            history=dict(
                [
                    series("lowcomm_gpu_memory_used_bytes", "99x30", gpu="0"),
                    series("lowcomm_gpu_memory_size_bytes", "100x30", gpu="0"),
                ]
            ),
            minutes=20,
            fires_for=(_GPU,),
        ),
        silent=Case(
            history=dict(
                [
                    series("lowcomm_gpu_memory_used_bytes", "90x30", gpu="0"),
                    series("lowcomm_gpu_memory_size_bytes", "100x30", gpu="0"),
                ]
            ),
            minutes=20,
        ),
    ),
    Alert(
        name="GpuHot",
        severity="warning",
        expr="lowcomm_gpu_temperature_celsius > 87",
        minutes=10,
        summary="GPU {{ $labels.gpu }} of {{ $labels.instance }} is hotter than 87 degrees.",
        cause="Dust, a fan, a closed case, summer.",
        look="*GPU temperature* and *GPU power* of the node's dashboard.",
        cure="Let air in, or lower its power limit (`nvidia-smi -pl`): some steps fewer cost the swarm nothing.",
        fires=Case(
            history=dict([series("lowcomm_gpu_temperature_celsius", "92x30", gpu="0")]), minutes=20, fires_for=(_GPU,)
        ),
        silent=Case(history=dict([series("lowcomm_gpu_temperature_celsius", "80x30", gpu="0")]), minutes=20),
    ),
    Alert(
        name="ClockSkew",
        severity="warning",
        expr="abs(lowcomm_clock_ahead_seconds) > 1",
        minutes=5,
        summary="The clock of {{ $labels.instance }} is more than a second from those of the others.",
        cause="The machine sets its clock by nobody (no NTP), or has just woken up. Where many nodes of a run say so, one half of them is wrong.",
        look="*Clock* of the wire's dashboard: is it this node, or all against one? `timedatectl`.",
        cure="Set the clock, best by NTP (`timedatectl set-ntp true`). Beyond 2.5 seconds the node is not let in again when it starts, and beyond 3 the directory takes no record from it.",
        fires=Case(history=dict([series("lowcomm_clock_ahead_seconds", "0x5 -1.5x20")]), minutes=15, fires_for=(NODE,)),
        silent=Case(history=dict([series("lowcomm_clock_ahead_seconds", "0x5 1.5x3 0.4x20")]), minutes=15),
    ),
    Alert(
        name="PlacesFull",
        severity="warning",
        expr="lowcomm_places_taken >= (lowcomm_places_limit > 0)",
        minutes=10,
        summary="All places for {{ $labels.place }} at {{ $labels.instance }} have been taken for ten minutes.",
        cause="More ask than the node serves at a time: joiners that download on slow lines (downloads), nodes that cannot be dialled (bells), a flood (door, calls, libp2p_streams), or meetings whose partners do not answer (unsettled).",
        look="*Places* of the node's dashboard; MessagesRefused and PeersQuarantined.",
        cure="downloads: nothing, joiners ask others, too. bells: raise `network.max_bells`. door, calls, libp2p_streams: see MessagesRefused. unsettled: see MeetingsFail. http: somebody asks the local port all the time.",
        fires=Case(
            history=dict(
                [
                    series("lowcomm_places_taken", "3x3 64x20", place="bells"),
                    series("lowcomm_places_limit", "64x23", place="bells"),
                ]
            ),
            minutes=18,
            fires_for=({**NODE, "place": "bells"},),
        ),
        silent=Case(
            history=dict(
                [
                    series("lowcomm_places_taken", "0x23", place="bells"),
                    series("lowcomm_places_limit", "0x23", place="bells"),
                ]
            ),
            minutes=18,
        ),
    ),
    Alert(
        name="EventLoopLags",
        severity="warning",
        expr=f"""histogram_quantile(
  0.99, sum by (job, run_id, instance, le) (rate({_LAG}[10m]))
) > 0.5""",
        minutes=10,
        summary="The daemon of {{ $labels.instance }} wakes up half a second late.",
        cause="The machine has no processor time for it, or it swaps.",
        look="*Processor*, *Memory* and *Event loop lag* of the node's dashboard.",
        cure="Leave it a core (`device.threads`), or memory. Meetings with this node time out otherwise.",
        fires=Case(
            history=dict(
                [
                    series(_LAG, "0x60", le="0.5"),
                    series(_LAG, "0+240x60", le="1.0"),
                    series(_LAG, "0+240x60", le="+Inf"),
                ]
            ),
            minutes=30,
            fires_for=(NODE,),
        ),
        silent=Case(
            history=dict(
                [
                    series(_LAG, "0+240x60", le="0.5"),
                    series(_LAG, "0+240x60", le="1.0"),
                    series(_LAG, "0+240x60", le="+Inf"),
                ]
            ),
            minutes=30,
        ),
    ),
    Alert(
        name="ErrorsLogged",
        severity="warning",
        expr=f'sum {_BY_NODE} (increase(lowcomm_log_messages_total{{level=~"error|critical"}}[15m])) > 5',
        minutes=0,
        summary="{{ $labels.instance }} logs errors.",
        cause="Anything that this node could not do and that no other alert speaks of.",
        look="Its log, for lines of level error.",
        cure="Each message says what to do. If one does not, that is a defect: report it.",
        fires=Case(
            history=dict([series("lowcomm_log_messages_total", "0+1x60", level="error")]),
            minutes=20,
            fires_for=(NODE,),
        ),
        silent=Case(history=dict([series("lowcomm_log_messages_total", "0+9x60", level="warning")]), minutes=20),
    ),
)
