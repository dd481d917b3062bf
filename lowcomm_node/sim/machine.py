"""A real computer that the nodes of a swarm shared, as their recordings tell of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Any

from lowcomm_node.sim.requests import RequestKey

__all__ = ["Machine", "machine_json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was seen on it, of all nodes together."""

    steps_s: Sequence[float]
    """Own steps, with all that held them up; what trainers did for meetings in between is not in them."""
    works_s: Mapping[RequestKey, Sequence[float]]
    """A trainer's own work for a request; the wait for the end of its step is not in it. Every ``Request`` occurs."""
    latency_s: float
    """A message, from the core that sends it to the core that gets it; mean."""

    @property
    def step_s(self) -> float:
        """Mean."""
        return fmean(self.steps_s)

    @property
    def work_s(self) -> float:
        """Mean over all requests."""
        return fmean(work_s for works_s in self.works_s.values() for work_s in works_s)

    def like(self, key: RequestKey) -> Sequence[float]:
        """What such requests took; where none was seen, what the same request took in meetings of any kind."""
        request, _ = key
        return self.works_s.get(key) or [
            work_s for (other, _), works_s in self.works_s.items() if other is request for work_s in works_s
        ]


def machine_json(machine: Machine) -> dict[str, Any]:
    """As plain JSON values, in seconds: means, and how much steps differ."""
    deciles = quantiles(machine.steps_s, n=10, method="inclusive") if len(machine.steps_s) > 1 else [machine.step_s] * 9
    return {
        "step_s": machine.step_s,
        "step_p10_s": deciles[0],
        "step_p90_s": deciles[-1],
        "latency_s": machine.latency_s,
        "works_s": [
            {"request": request, "kind": kind, "number": len(works_s), "mean_s": fmean(works_s)}
            for (request, kind), works_s in machine.works_s.items()
        ],
    }
