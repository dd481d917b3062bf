"""One node sleeps once, for as long as the user says: a pure decision, no clock of its own."""

from collections.abc import Mapping, Sequence

from lowcomm_node.cli.swarm.chaos import Blow, Fault

__all__ = ["AWAKE_S", "Nap"]

AWAKE_S = 20.0
"""Training time before the nap, so that the nodes have found and met one another."""
_MIN_HEALTHY = 3
"""The sleeper and two that meet each other meanwhile."""


class Nap:
    """Answers what ``Chaos`` answers: what happens at this moment? The newest node falls asleep, and nothing else ever does."""

    def __init__(self, seconds: float) -> None:
        """``seconds``: how long it sleeps."""
        self._seconds = seconds
        self._is_over = False

    def due(
        self,
        *,
        elapsed_s: float,
        share_done: float,  # noqa: ARG002 - as Chaos is asked
        victims: Mapping[Fault, Sequence[str]],
        healthy: Sequence[str],
    ) -> Blow | None:
        """The nap, when three nodes train undisturbed and had the time to meet; it waits for that. Never the first node."""
        nodes = victims.get(Fault.SLEEP, ())
        if self._is_over or elapsed_s < AWAKE_S or len(healthy) < _MIN_HEALTHY or not nodes:
            return None
        self._is_over = True
        return Blow(fault=Fault.SLEEP, node=max(nodes, key=lambda name: (len(name), name)), seconds=self._seconds)
