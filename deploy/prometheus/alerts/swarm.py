"""Alerts about members and the directory."""

from deploy.prometheus.alert import NODE, RUN, Alert, Case, series

__all__ = ["SWARM_ALERTS"]

_BY_NODE = "by (job, run_id, instance)"
_BY_RUN = "by (job, run_id)"
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
        name="Churn",
        severity="warning",
        expr=f"""sum {_BY_NODE} (increase(lowcomm_peer_events_total{{event="gone"}}[1h]))
> 2 * (1 + sum {_BY_NODE} (avg_over_time(lowcomm_peers{{state=~"reachable|suspect"}}[1h])))
and on (job, run_id, instance) lowcomm_memory_entries{{memory="members"}} < 0.5 * lowcomm_memory_limit{{memory="members"}}""",
        minutes=10,
        summary="{{ $labels.instance }} sees each member of the run go twice an hour.",
        cause="Nodes that crash and come back, lines that break, or a directory that takes no records: each time a record runs out counts. Only said where a node sees the whole swarm; of a large one it sees a part at a time.",
        look="*What became of members* of the swarm's dashboard; DirectoryFails; TrainerRestarts and NodeDown: is it always the same nodes?",
        cure="If the others run on, it is the directory or this node's line (`lowcomm-node doctor`). If they crash, start with their logs. Who comes and goes for good reasons does no harm: raise the alert's limit.",
        fires=Case(
            history=dict(
                [
                    series("lowcomm_peer_events_total", "0+1x120", event="gone"),
                    series("lowcomm_peers", "10x120", state="reachable"),
                    series("lowcomm_memory_entries", "10x120", memory="members"),
                    series("lowcomm_memory_limit", "64x120", memory="members"),
                ]
            ),
            minutes=90,
            fires_for=(NODE,),
        ),
        silent=Case(
            history=dict(
                [
                    series("lowcomm_peer_events_total", "0+0.1x120", event="gone"),
                    series("lowcomm_peers", "10x120", state="reachable"),
                    series("lowcomm_memory_entries", "10x120", memory="members"),
                    series("lowcomm_memory_limit", "64x120", memory="members"),
                ]
            ),
            minutes=90,
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
