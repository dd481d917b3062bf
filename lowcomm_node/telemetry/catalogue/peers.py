"""Others, and how they are found."""

from lowcomm_node.telemetry.catalogue.words import DHT_BUCKETS, OPERATIONS, REFUSALS
from lowcomm_node.telemetry.metric import Metric
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
        name="peers_limit",
        kind="gauge",
        help="Most other members that this node keeps in mind (network.max_peers).",
        used_by="How full is its sample of the swarm?",
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
        name="bells_limit",
        kind="gauge",
        help="Most bells of others that this node holds (network.max_bells).",
        used_by="Is there room for more nodes that cannot be dialled?",
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
        name="dht_restarts_total",
        kind="counter",
        help="Times the DHT was started again after its daemon had died.",
        used_by="Does the directory's daemon crash?",
    ),
)
