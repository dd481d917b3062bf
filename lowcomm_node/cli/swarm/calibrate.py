"""How many steps fit into a time, so that a run's schedule ends when its minutes do."""

import os
from collections.abc import Sequence
from dataclasses import replace

from lowcomm_node.cli.pace import Pace
from lowcomm_node.settings.manifest import Manifest

__all__ = ["available_cores", "mean_nodes", "steps_that_fit", "with_total_steps"]

_EFFICIENCY = 0.65
"""Share of a lone trainer's pace that is left to one in a full swarm: daemons, meetings, validations, shared caches."""
_START_CORE_S = 6.0
"""Processor seconds a node costs until it trains."""
_AWAY_S = 15.0
"""Seconds between a kill and the next step of its victim."""
_MIN_STEPS = 20


def available_cores() -> int:
    """Cores this process may use; a container or taskset can allow fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mean_nodes(*, nodes: int, late_shares: Sequence[float], kill_every_s: float) -> float:
    """Nodes that train at a time, on average: late ones from their share of the run on, the killed not while away."""
    away = _AWAY_S / kill_every_s if kill_every_s else 0.0
    return max(1.0, nodes + sum(1 - share for share in late_shares) - away)


def steps_that_fit(pace: Pace, *, seconds: float, nodes: float, cores: int, starts: int) -> int:
    """Inner steps the average node takes in ``seconds``, a little fewer rather than more.

    ``nodes`` share ``cores``, each using ``pace.threads`` at most; ``nodes`` may be a mean over time. ``starts``
    nodes are started within that time.
    """
    useful = max(0.0, cores * seconds - _START_CORE_S * starts)
    core_seconds_each = min(useful / nodes, seconds * pace.threads)
    return max(_MIN_STEPS, int(core_seconds_each / pace.threads * pace.steps_per_second * _EFFICIENCY))


def with_total_steps(manifest: Manifest, total_steps: int) -> Manifest:
    """The same run with another length.

    The warm-up keeps its steps where they are at most a tenth of the run, else its share of the run.
    """
    training = manifest.training
    same_share = training.warmup_steps * total_steps // training.total_steps
    warmup = min(training.warmup_steps, max(total_steps // 10, same_share))
    return replace(manifest, training=replace(training, total_steps=total_steps, warmup_steps=warmup))
