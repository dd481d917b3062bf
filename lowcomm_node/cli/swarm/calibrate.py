"""How many steps fit into a time: measured on this computer, so that a run's schedule ends when its minutes do."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.units import PeerId

__all__ = ["Pace", "available_cores", "mean_nodes", "measure_pace", "steps_that_fit", "with_total_steps"]

_WARM_STEPS = 5
_MEASURE_S = 3.0
_EFFICIENCY = 0.65
"""Share of a lone trainer's pace that is left to one in a full swarm: daemons, meetings, validations, shared caches."""
_START_CORE_S = 6.0
"""Processor seconds a node costs until it trains."""
_AWAY_S = 15.0
"""Seconds between a kill and the next step of its victim."""
_MIN_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What was measured."""

    steps_per_second: float
    threads: int


def available_cores() -> int:
    """Cores this process may use; a container or taskset can allow fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_pace(manifest: Manifest, settings: NodeSettings, is_unwanted: Callable[[], bool]) -> Pace:
    """Train the manifest's model for three seconds in this process, as one node would with these settings.

    Returns early when ``is_unwanted`` says so. Raises DataError, ConfigError.
    """
    from lowcomm_node.train.session import build_session

    session = build_session(manifest, settings, run_id(manifest), PeerId("pace"))
    for index in range(_WARM_STEPS):
        session.replica.train_step(session.stream.batch(index))
    steps, begun_s = 0, time.perf_counter()
    while steps == 0 or (time.perf_counter() - begun_s < _MEASURE_S and not is_unwanted()):
        session.replica.train_step(session.stream.batch(_WARM_STEPS + steps))
        steps += 1
    rate = steps / (time.perf_counter() - begun_s)
    return Pace(steps_per_second=rate, threads=settings.device.threads)


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
