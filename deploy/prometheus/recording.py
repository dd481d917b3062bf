"""Queries that several alerts, or people, ask again and again."""

from deploy.prometheus.alert import Recording

__all__ = ["RECORDINGS"]

_RUN = "by (job, run_id)"
_NODE = "by (job, run_id, instance)"

RECORDINGS: tuple[Recording, ...] = (
    Recording(
        record="run:lowcomm_nodes_training:sum",
        expr=f'sum {_RUN} (lowcomm_node_state{{state="training"}})',
    ),
    # A node that has not measured its loss says NaN, which no comparison lets through.
    Recording(record="run:lowcomm_train_loss:median", expr=f"quantile {_RUN} (0.5, lowcomm_train_loss >= 0)"),
    Recording(
        record="run:lowcomm_train_loss:mad",
        expr=f"quantile {_RUN} (0.5, abs((lowcomm_train_loss >= 0) - on (job, run_id) group_left () run:lowcomm_train_loss:median))",
    ),
    Recording(
        # Each node's estimate is unbiased in its square.
        record="run:lowcomm_swarm_spread:rms",
        expr=f"sqrt(avg {_RUN} ((lowcomm_swarm_spread >= 0) ^ 2))",
    ),
    Recording(
        record="instance:lowcomm_meetings_failed:ratio_rate15m",
        expr=f"""sum {_NODE} (rate(lowcomm_meetings_failed_total{{reason!~"busy|yielded"}}[15m]))
/ (
  sum {_NODE} (rate(lowcomm_meetings_failed_total{{reason!~"busy|yielded"}}[15m]))
  + sum {_NODE} (rate(lowcomm_meetings_completed_total[15m])) > 0
)""",
    ),
    Recording(
        record="instance:lowcomm_wire_compression:ratio_rate15m",
        expr=f"""sum {_NODE} (rate(lowcomm_wire_raw_bytes_total[15m]))
/ (sum {_NODE} (rate(lowcomm_wire_bytes_total{{direction="sent"}}[15m])) > 0)""",
    ),
    Recording(
        record="instance:lowcomm_train_blocked:ratio_rate10m",
        expr=f'sum {_NODE} (rate(lowcomm_train_blocked_seconds_total{{cause!="sync"}}[10m]))',
    ),
)
