"""What the corrections of meetings tell about the swarm, summed up."""

import math
from dataclasses import dataclass

__all__ = ["Exchanged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """Sums over the corrections that one stream of state has taken in one codec in the life of this trainer process.

    D is the difference from a partner, C the part of it that a meeting moved. Partners are drawn evenly, so over all nodes
    ``difference_energy / (2 * corrections * numbers of the stream)`` estimates the swarm's variance per number.
    """

    corrections: int = 0
    captured_energy: float = 0.0
    """Of |C|^2, before clipping."""
    difference_energy: float = 0.0
    """Of |D|^2 as each meeting tells it (``EnergyModel.estimate``)."""
    progress_gap_steps: float = 0.0
    """Of how far the partner's progress was from the own one, either way."""

    def with_correction(self, *, captured: float, whole: float, progress_gap_steps: float) -> "Exchanged":
        """One more; a codec that does not tell the whole difference (NaN) adds to neither energy."""
        is_told = math.isfinite(whole)
        return Exchanged(
            corrections=self.corrections + 1,
            captured_energy=self.captured_energy + (captured if is_told else 0.0),
            difference_energy=self.difference_energy + (whole if is_told else 0.0),
            progress_gap_steps=self.progress_gap_steps + progress_gap_steps,
        )
