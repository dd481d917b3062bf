"""All metrics of a node: the registry, ``docs/metrics.md`` and the checks of dashboards and alerts are made from it.

Label values are closed sets; each combination exists at zero from the start, so that a fresh node shows
zeros instead of nothing and the first increment is not lost to ``rate()``. No label ever carries a peer
id, an address, a path or free text: who met whom is in the logs and in ``lowcomm-node status --json``.
"""

from lowcomm_node.telemetry.catalogue.ab_training import AB_METRICS
from lowcomm_node.telemetry.catalogue.gpu import GPU_METRICS
from lowcomm_node.telemetry.catalogue.meetings import MEETINGS_METRICS
from lowcomm_node.telemetry.catalogue.node import NODE_METRICS
from lowcomm_node.telemetry.catalogue.peers import PEERS_METRICS
from lowcomm_node.telemetry.catalogue.state import STATE_METRICS
from lowcomm_node.telemetry.catalogue.training import TRAINING_METRICS
from lowcomm_node.telemetry.catalogue.wire import WIRE_METRICS
from lowcomm_node.telemetry.catalogue.words import OTHER
from lowcomm_node.telemetry.metric import Metric

__all__ = ["CATALOGUE", "OTHER"]

CATALOGUE: tuple[Metric, ...] = (
    *NODE_METRICS,
    *TRAINING_METRICS,
    *MEETINGS_METRICS,
    *WIRE_METRICS,
    *PEERS_METRICS,
    *STATE_METRICS,
    *GPU_METRICS,
    *AB_METRICS,
)
