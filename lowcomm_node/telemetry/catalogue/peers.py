"""Others, and how they are found."""

from lowcomm_node.core.churn import PeerEvent
from lowcomm_node.telemetry.catalogue.words import DHT_BUCKETS, OPERATIONS, REFUSALS, RTT_BUCKETS
from lowcomm_node.telemetry.metric import UNMEASURED, Metric
from lowcomm_node.units import Reachability

__all__ = ["PEERS_METRICS"]

PEERS_METRICS: tuple[Metric, ...] = (
    Metric(
        name="peers",
        kind="gauge",
        help="Other members this node knows, by what it thinks of them.",
        labels={"state": ("reachable", "suspect", "quarantined")},
        used_by="Is the node isolated?",
    ),
    Metric(
        name="swarm_spread",
        kind="gauge",
        help="Spread of the weights as this node estimates it from members' sketches at one mark: root mean square distance of a weight from the swarm's mean.",
        initial=UNMEASURED,
        used_by="Do the replicas stay together?",
    ),
    Metric(
        name="peer_events_total",
        kind="counter",
        help="What became of members in the eyes of this node: their record was read for the first time (appeared) or ran out (gone), a full sample gave their place to another (replaced), they did not answer (suspected) or may be met again (trusted).",
        labels={"event": tuple(PeerEvent)},
        used_by="How fast do members come and go? How many do not answer?",
    ),
    Metric(
        name="peer_rtt_seconds",
        kind="histogram",
        unit="seconds",
        help="Round trip to a member over a connection that is up, one member every few seconds, drawn by chance.",
        buckets=RTT_BUCKETS,
        used_by="How far away are the others? Is the line full?",
    ),
    Metric(
        name="clock_ahead_seconds",
        kind="gauge",
        unit="seconds",
        help="How far this machine's clock is ahead of those of the members it is connected to (negative: behind), as their median; right to half a round trip.",
        initial=UNMEASURED,
        used_by="Is the clock wrong? Records of a node whose clock is are not believed.",
    ),
    Metric(
        name="quarantines_total",
        kind="counter",
        help="Times a peer was left alone for a while because of what it had sent.",
        used_by="Is somebody hostile?",
    ),
    Metric(
        name="messages_rejected_total",
        kind="counter",
        help="Messages, records and connections of peers that were refused, by reason; checksum is a signature or a digest that does not fit.",
        labels={"reason": REFUSALS},
        used_by="Is somebody broken or hostile?",
    ),
    Metric(
        name="reachability",
        kind="gauge",
        help="1 for how others get to this node, 0 for the other ways.",
        labels={"reachability": tuple(Reachability)},
        used_by="Can this node be dialled? How many of the swarm can?",
    ),
    Metric(
        name="bells",
        kind="gauge",
        help="Bells of this node at members that can be dialled (own), and of others here (held).",
        labels={"side": ("own", "held")},
        used_by="Can others start meetings with a node that cannot be dialled?",
    ),
    Metric(
        name="dht_requests_total",
        kind="counter",
        help="Reads and writes of the directory.",
        labels={"operation": ("get", "put"), "outcome": ("ok", "timeout", "error")},
        used_by="Does the directory work?",
    ),
    Metric(
        name="dht_request_duration_seconds",
        kind="histogram",
        unit="seconds",
        help="Time a read or write of the directory took, successful or not.",
        labels={"operation": OPERATIONS},
        buckets=DHT_BUCKETS,
        used_by="Is the directory slow?",
    ),
    Metric(
        name="dht_routing_table_peers",
        kind="gauge",
        help="Peers in the routing table of the DHT, of this run or of none; 0 while the DHT is started anew.",
        used_by="Is the directory's network whole here?",
    ),
    Metric(
        name="dht_restarts_total",
        kind="counter",
        help="Times the DHT was started again after its daemon had died.",
        used_by="Does the directory's daemon crash?",
    ),
)
