"""How fast this machine trains a run's model, and what that takes of it: measured for a few seconds in this process."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from lowcomm_node.adapters.power import Power, PowerMeter
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.units import PeerId

__all__ = ["Pace", "measure_pace"]

_WARM_STEPS = 5
_MEASURE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What was measured."""

    steps_per_second: float
    threads: int
    device: str = ""
    """In torch's words; of several the first, which alone was measured."""
    micro_batches: int = 1
    memory_bytes: int = 0
    """Of a GPU what torch has taken there, else of this process."""
    power: Power | None = None
    """None where the machine does not tell."""


def measure_pace(
    manifest: Manifest, settings: NodeSettings, is_unwanted: Callable[[], bool], meter: PowerMeter | None = None
) -> Pace:
    """Train the manifest's model for three seconds in this process, as one node would with these settings.

    Returns early when ``is_unwanted`` says so. Raises DataError, ConfigError.
    """
    from lowcomm_node.train.session import build_session

    session = build_session(manifest, settings, run_id(manifest), PeerId("pace"))
    try:
        for index in range(_WARM_STEPS):
            session.replica.train_step(session.stream.batch(index))
        if meter is not None:
            meter.begin()
        steps, begun_s = 0, time.perf_counter()
        while steps == 0 or (time.perf_counter() - begun_s < _MEASURE_S and not is_unwanted()):
            session.replica.train_step(session.stream.batch(_WARM_STEPS + steps))
            steps += 1
        rate = steps / (time.perf_counter() - begun_s)
        power = None if meter is None else meter.power()
        return Pace(
            steps_per_second=rate,
            threads=settings.device.threads,
            device=str(session.replica.device),
            micro_batches=session.replica.micro_batches,
            memory_bytes=_memory_bytes(str(session.replica.device)),
            power=power,
        )
    finally:
        session.close()


def _memory_bytes(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_reserved(device))
    return int(psutil.Process().memory_info().rss)
