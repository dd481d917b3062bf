"""Alerts about meetings."""

from deploy.prometheus.alert import NODE, RUN, Alert, Case, series

__all__ = ["MEETING_ALERTS"]

_BY_NODE = "by (job, run_id, instance)"
_BY_RUN = "by (job, run_id)"
_TRAINS = 'on (job, run_id, instance) lowcomm_node_state{state="training"} == 1'
_IS_TRAINING = series("lowcomm_node_state", "1x200", state="training")

MEETING_ALERTS: tuple[Alert, ...] = (
    Alert(
        name="Isolated",
        severity="warning",
        expr=f'max {_BY_NODE} (lowcomm_peers{{state="reachable"}}) == 0 and {_TRAINS}',
        minutes=5,
        summary="{{ $labels.instance }} knows nobody it could meet.",
        cause="It is alone in the run, its directory is cut off, or it suspects everybody after failed meetings.",
        look="*Others known* of the swarm's dashboard; DirectoryFails; `lowcomm-node peers`; `lowcomm-node doctor --peers ADDRESS`.",
        cure='Start it with the address of a node that is up. Let its ports through the firewall, or let it be dialled by nobody (`network.inbound = "off"`).',
        fires=Case(
            history=dict([series("lowcomm_peers", "3x3 0x20", state="reachable"), _IS_TRAINING]),
            minutes=12,
            fires_for=(NODE,),
        ),
        silent=Case(history=dict([series("lowcomm_peers", "1x20", state="reachable"), _IS_TRAINING]), minutes=12),
    ),
    Alert(
        name="MeetingsStale",
        severity="warning",
        expr=f"""time() - (lowcomm_meeting_last_success_timestamp_seconds > 0 or process_start_time_seconds) > 1800
and {_TRAINS}
and on (job, run_id, instance) lowcomm_line_closed == 0""",
        minutes=5,
        summary="{{ $labels.instance }} trains and has met nobody for half an hour.",
        cause="Every meeting fails, nobody is reachable, or the run's periods are simply longer than that.",
        look="*Why meetings fail* of the node's dashboard; Isolated; the steps between two meetings in the log (`exchange_period`) against the node's steps per second.",
        cure="By reason: unreachable and timeout are the network (`lowcomm-node doctor`), busy a swarm of very few, trainer the node's own. If the periods are long, raise the alert's limit.",
        fires=Case(
            history=dict(
                [
                    series("lowcomm_meeting_last_success_timestamp_seconds", "60x60"),
                    series("process_start_time_seconds", "1x60"),
                    series("lowcomm_line_closed", "0x60"),
                    _IS_TRAINING,
                ]
            ),
            minutes=45,
            fires_for=(NODE,),
        ),
        silent=Case(
            history=dict(
                [
                    series("lowcomm_meeting_last_success_timestamp_seconds", "60x60"),
                    series("process_start_time_seconds", "1x60"),
                    series("lowcomm_line_closed", "1x60"),
                    _IS_TRAINING,
                ]
            ),
            minutes=45,
        ),
    ),
    Alert(
        name="MeetingsFail",
        severity="warning",
        expr=f"""instance:lowcomm_meetings_failed:ratio_rate15m > 0.2
and on (job, run_id, instance)
  sum {_BY_NODE} (increase(lowcomm_meetings_failed_total{{reason!~"busy|yielded"}}[15m])) > 5""",
        minutes=10,
        summary="More than a fifth of the meetings of {{ $labels.instance }} fail.",
        cause="A line that breaks or is too slow, partners that die, a trainer that does not answer in time.",
        look="*Why meetings fail* of the node's dashboard; *How long meetings take* of the swarm's.",
        cure="unreachable: `lowcomm-node doctor`. timeout, disconnect: the line, or too small a cap in `bandwidth`. trainer: TrainerRestarts, TrainingStalled. A failed meeting loses nothing: the difference stays for the next.",
        fires=Case(
            history=dict(
                [
                    series("lowcomm_meetings_failed_total", "0+1x60", reason="timeout"),
                    series("lowcomm_meetings_completed_total", "0+1x60", role="initiator"),
                ]
            ),
            minutes=40,
            fires_for=(NODE,),
        ),
        silent=Case(
            history=dict(
                [
                    series("lowcomm_meetings_failed_total", "0+9x60", reason="busy"),
                    series("lowcomm_meetings_completed_total", "0+1x60", role="initiator"),
                ]
            ),
            minutes=40,
        ),
    ),
    Alert(
        name="HalfMeetings",
        severity="critical",
        expr=f"""sum {_BY_RUN} (increase(lowcomm_meetings_half_total[1h])) > 2
and sum {_BY_RUN} (increase(lowcomm_meetings_half_total[1h]))
  > 0.01 * sum {_BY_RUN} (increase(lowcomm_meetings_completed_total[1h]))""",
        minutes=0,
        summary="In run {{ $labels.run_id }} meetings are applied by one end alone.",
        cause="Machines die for good in the middle of meetings, which costs one half each; anything beyond that is a defect, and moves the swarm's mean.",
        look="Logs for `meeting_half`: its reason and the partner; NodeDown: have as many machines died?",
        cure="If no machine died, take `lowcomm-node debug dump` on both ends and report it. Training goes on: a half meeting is a small push in a direction that was a mean's.",
        fires=Case(
            history=dict(
                [
                    series("lowcomm_meetings_half_total", "0+1x60"),
                    series("lowcomm_meetings_completed_total", "0+10x60", role="initiator"),
                ]
            ),
            minutes=30,
            fires_for=(RUN,),
        ),
        silent=Case(
            history=dict(
                [
                    series("lowcomm_meetings_half_total", "0x10 1x60"),
                    series("lowcomm_meetings_completed_total", "0+10x60", role="initiator"),
                ]
            ),
            minutes=30,
        ),
    ),
    Alert(
        name="CompressionLost",
        severity="warning",
        expr="""instance:lowcomm_wire_compression:ratio_rate15m < 1.5
and on (job, run_id, instance) lowcomm_train_progress_steps < 0.9 * lowcomm_run_total_steps""",
        minutes=30,
        summary="{{ $labels.instance }} sends nearly as much as whole weights would take.",
        cause="Most of what is sent belongs to meetings that fail, or the manifest's byte budget is as large as the model.",
        look="*Compression by stream* and *Sent, by what it is* of the wire's dashboard; MeetingsFail.",
        cure="Mend what makes meetings fail. Near the end of a run whole tensors are sent on purpose; the alert leaves that out.",
        fires=Case(
            history=dict(
                [
                    series("lowcomm_wire_raw_bytes_total", "0+100x90", stream="params"),
                    series("lowcomm_wire_bytes_total", "0+90x90", direction="sent", stream="params", codec="sparse"),
                    series("lowcomm_train_progress_steps", "10x90"),
                    series("lowcomm_run_total_steps", "100x90"),
                ]
            ),
            minutes=60,
            fires_for=(NODE,),
        ),
        silent=Case(
            history=dict(
                [
                    series("lowcomm_wire_raw_bytes_total", "0+100x90", stream="params"),
                    series("lowcomm_wire_bytes_total", "0+90x90", direction="sent", stream="params", codec="dense"),
                    series("lowcomm_train_progress_steps", "95x90"),
                    series("lowcomm_run_total_steps", "100x90"),
                ]
            ),
            minutes=60,
        ),
    ),
)
