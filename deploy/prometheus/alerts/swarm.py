"""Alerts about meetings, members and the directory."""

from deploy.prometheus.alert import NODE, RUN, Alert, Case, series

__all__ = ["SWARM_ALERTS"]

_BY_NODE = "by (job, run_id, instance)"
_BY_RUN = "by (job, run_id)"
_TRAINS = 'on (job, run_id, instance) lowcomm_node_state{state="training"} == 1'
_IS_TRAINING = series("lowcomm_node_state", "1x200", state="training")

SWARM_ALERTS: tuple[Alert, ...] = (
    Alert(
        name="NodeFailed",
        severity="critical",
        expr=f'max {_BY_NODE} (lowcomm_node_state{{state="failed"}}) == 1',
        minutes=0,
        summary="{{ $labels.instance }} has failed and is about to end.",
        cause="Something it cannot go on with: settings, a full disk, a trainer that keeps dying, a state that is unfit again and again.",
        look="The last lines of its log, which name the error and its cure; the crash dump that they point to.",
        cure="As the log says; then start it again. Its checkpoints stay.",
        fires=Case(
            history=dict([series("lowcomm_node_state", "0x5 1x5", state="failed")]), minutes=8, fires_for=(NODE,)
        ),
        silent=Case(history=dict([series("lowcomm_node_state", "0x10", state="failed"), _IS_TRAINING]), minutes=8),
    ),
    Alert(
        name="NodeDown",
        severity="warning",
        expr='up{job=~"lowcomm.*"} == 0',
        minutes=5,
        summary="{{ $labels.instance }} cannot be scraped.",
        cause="The node or its machine is off, or the network between it and Prometheus.",
        look="Prometheus' page of targets for the error; `lowcomm-node status` on the machine.",
        cure="Volunteers come and go: nothing, if it is one of them. The swarm does not need it back.",
        fires=Case(history=dict([series("up", "1x3 0x20")]), minutes=12, fires_for=(NODE,)),
        silent=Case(history=dict([series("up", "1x3 0x2 1x20")]), minutes=12),
    ),
    Alert(
        name="SwarmShrank",
        severity="warning",
        expr="run:lowcomm_nodes_training:sum < 0.7 * (run:lowcomm_nodes_training:sum offset 1h)",
        minutes=10,
        summary="Run {{ $labels.run_id }} has lost a third of its training nodes within an hour.",
        cause="A version that crashes, a run that nears its end, a network that has come apart, or night in one part of the world.",
        look="*Nodes training* and the table of the swarm's dashboard; NodeDown and NodeFailed; are they of one version?",
        cure="What is left trains on by itself. If the lost nodes share a version or a network, start there.",
        fires=Case(
            history=dict(
                series("lowcomm_node_state", "1x200" if node in "ab" else "1x60 0x140", instance=node, state="training")
                for node in "abcd"
            ),
            minutes=90,
            fires_for=(RUN,),
        ),
        silent=Case(
            history=dict(
                series(
                    "lowcomm_node_state", "1x200" if node in "abc" else "1x60 0x140", instance=node, state="training"
                )
                for node in "abcd"
            ),
            minutes=90,
        ),
    ),
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
  sum {_BY_NODE} (increase(lowcomm_meetings_failed_total{{reason!="busy"}}[15m])) > 5""",
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
                    series("lowcomm_wire_raw_bytes_total", "0+100x90", direction="sent", stream="params"),
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
                    series("lowcomm_wire_raw_bytes_total", "0+100x90", direction="sent", stream="params"),
                    series("lowcomm_wire_bytes_total", "0+90x90", direction="sent", stream="params", codec="dense"),
                    series("lowcomm_train_progress_steps", "95x90"),
                    series("lowcomm_run_total_steps", "100x90"),
                ]
            ),
            minutes=60,
        ),
    ),
    Alert(
        name="MessagesRefused",
        severity="warning",
        expr=f"sum {_BY_NODE} (increase(lowcomm_messages_rejected_total[15m])) > 50",
        minutes=0,
        summary="{{ $labels.instance }} refuses many messages of others.",
        cause="Somebody is broken, runs another version, or is hostile.",
        look="*Refused messages* of the wire's dashboard for the reason; the log for `message_rejected` and whom it names.",
        cure="Offenders are put into quarantine by themselves. wrong_protocol: update. not_admitted: invite them, or let them be. Where it costs the line, block the address in the firewall.",
        fires=Case(
            history=dict([series("lowcomm_messages_rejected_total", "0+10x60", reason="malformed")]),
            minutes=20,
            fires_for=(NODE,),
        ),
        silent=Case(
            history=dict([series("lowcomm_messages_rejected_total", "0+1x60", reason="malformed")]), minutes=20
        ),
    ),
    Alert(
        name="PeersQuarantined",
        severity="warning",
        expr=f"sum {_BY_NODE} (increase(lowcomm_quarantines_total[1h])) > 3",
        minutes=0,
        summary="{{ $labels.instance }} has put several peers into quarantine.",
        cause="An attack, or a version that speaks wrongly.",
        look="The log for `peer_quarantined`: which peers, and why? The same ones on other nodes?",
        cure="Nothing for the run: who sends rubbish is left alone. Tell whoever runs those nodes.",
        fires=Case(history=dict([series("lowcomm_quarantines_total", "0+1x60")]), minutes=20, fires_for=(NODE,)),
        silent=Case(history=dict([series("lowcomm_quarantines_total", "0x10 2x50")]), minutes=20),
    ),
    Alert(
        name="StatesRefused",
        severity="warning",
        expr=f"sum {_BY_NODE} (increase(lowcomm_state_refusals_total[1h])) > 2",
        minutes=0,
        summary="{{ $labels.instance }} has refused the states of several donors.",
        cause="Donors give states that cannot be read or are unlike those of other members: broken disks, or poison.",
        look="*State of others* of the node's dashboard; the log for the donors' names and what was wrong.",
        cure="Nothing, as long as it finds a donor. Otherwise let it know other members (`--peers`).",
        fires=Case(
            history=dict([series("lowcomm_state_refusals_total", "0+1x60", reason="unreadable")]),
            minutes=20,
            fires_for=(NODE,),
        ),
        silent=Case(
            history=dict([series("lowcomm_state_refusals_total", "0x5 1x60", reason="unreadable")]), minutes=20
        ),
    ),
    Alert(
        name="DirectoryFails",
        severity="warning",
        expr=f"""sum {_BY_NODE} (rate(lowcomm_dht_requests_total{{outcome!="ok"}}[15m]))
/ (sum {_BY_NODE} (rate(lowcomm_dht_requests_total[15m])) > 0) > 0.2""",
        minutes=15,
        summary="More than a fifth of the directory requests of {{ $labels.instance }} fail.",
        cause="The DHT's daemon has died, or none of the nodes it knows answers.",
        look="*Requests* and *Restarts of the DHT's daemon* of the wire's dashboard; the log for `dht_request_failed`.",
        cure="It is started again by itself and asks the contacts of earlier days. If nobody answers, restart the node with a fresh `--peers` address.",
        fires=Case(
            history=dict(
                [
                    series("lowcomm_dht_requests_total", "0+1x60", operation="get", outcome="error"),
                    series("lowcomm_dht_requests_total", "0+1x60", operation="get", outcome="ok"),
                ]
            ),
            minutes=40,
            fires_for=(NODE,),
        ),
        silent=Case(
            history=dict(
                [
                    series("lowcomm_dht_requests_total", "0x60", operation="get", outcome="error"),
                    series("lowcomm_dht_requests_total", "0+1x60", operation="get", outcome="ok"),
                ]
            ),
            minutes=40,
        ),
    ),
    Alert(
        name="DirectorySlow",
        severity="warning",
        expr="""histogram_quantile(
  0.9, sum by (job, run_id, instance, le) (rate(lowcomm_dht_request_duration_seconds_bucket[15m]))
) > 5""",
        minutes=15,
        summary="Directory requests of {{ $labels.instance }} take longer than five seconds.",
        cause="Many members that are gone are still asked, or the line is full.",
        look="*Time of a request* of the wire's dashboard, against *Sent*.",
        cure="Cap the line a little below what it can do (`bandwidth.up_mbit_per_s`), so that small messages get through. Members that are gone are forgotten by themselves.",
        fires=Case(
            history=dict(
                [
                    series("lowcomm_dht_request_duration_seconds_bucket", "0x60", operation="get", le="5.0"),
                    series("lowcomm_dht_request_duration_seconds_bucket", "0+1x60", operation="get", le="10.0"),
                    series("lowcomm_dht_request_duration_seconds_bucket", "0+1x60", operation="get", le="+Inf"),
                ]
            ),
            minutes=40,
            fires_for=(NODE,),
        ),
        silent=Case(
            history=dict(
                [
                    series("lowcomm_dht_request_duration_seconds_bucket", "0+1x60", operation="get", le="5.0"),
                    series("lowcomm_dht_request_duration_seconds_bucket", "0+1x60", operation="get", le="10.0"),
                    series("lowcomm_dht_request_duration_seconds_bucket", "0+1x60", operation="get", le="+Inf"),
                ]
            ),
            minutes=40,
        ),
    ),
    Alert(
        name="VersionsDiffer",
        severity="info",
        expr=f"count {_BY_RUN} (count by (job, run_id, version) (lowcomm_build_info)) > 1",
        minutes=60,
        summary="Nodes of run {{ $labels.run_id }} run different versions.",
        cause="An update that has not come to all.",
        look="The table of the swarm's dashboard.",
        cure="Nothing at once: versions that cannot meet refuse each other (wrong_protocol). Update the rest.",
        fires=Case(
            history=dict(
                [
                    series("lowcomm_build_info", "1x90", version="1.0"),
                    series("lowcomm_build_info", "1x90", version="1.1", instance="b"),
                ]
            ),
            minutes=80,
            fires_for=(RUN,),
        ),
        silent=Case(
            history=dict(
                [
                    series("lowcomm_build_info", "1x90", version="1.0"),
                    series("lowcomm_build_info", "1x90", version="1.0", instance="b"),
                ]
            ),
            minutes=80,
        ),
    ),
)
