"""When members of a swarm are killed and when late ones come: a pure decision, no clock of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

__all__ = ["Due", "Timeline"]

_LATE_FROM = 0.2
_LATE_TO = 0.6
_CALM_FROM = 0.85
"""Nobody is killed in the last 15 % of a run: there would be no time to come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What is to be done now."""

    victim: str | None = None
    """Name of the node to kill."""
    joiners: int = 0
    """Late nodes to start."""


class Timeline:
    """Answers: who dies and how many join at this moment?

    Kills come every ``kill_every_s`` of training time, the victim drawn by a hash of seed and count, so that equal
    seeds kill equally among equal candidates. Late nodes come at even shares between a fifth and three fifths of
    the run. The caller asks in the order of time and carries out what it is told.
    """

    def __init__(self, *, kill_every_s: float, join_late: int, seed: int) -> None:
        self._kill_every_s = kill_every_s
        self._next_kill_s = kill_every_s
        self._join_late = join_late
        self._joined = 0
        self._seed = seed
        self._kills = 0

    @property
    def late_shares(self) -> tuple[float, ...]:
        """Shares of the run, 0 to 1, at which late nodes start."""
        width = (_LATE_TO - _LATE_FROM) / max(1, self._join_late)
        return tuple(_LATE_FROM + width * (index + 0.5) for index in range(self._join_late))

    def due(self, *, elapsed_s: float, share_done: float, candidates: Sequence[str]) -> Due:
        """What is due at ``elapsed_s`` seconds of training, with ``share_done`` of the run over.

        A kill that finds no candidate (all of them are starting) is skipped, not made up for later.
        """
        joiners = sum(share_done >= share for share in self.late_shares[self._joined :])
        self._joined += joiners
        victim = None
        if self._kill_every_s and elapsed_s >= self._next_kill_s:
            while self._next_kill_s <= elapsed_s:
                self._next_kill_s += self._kill_every_s
            if share_done < _CALM_FROM and candidates:
                victim = self._draw(sorted(candidates))
        return Due(victim=victim, joiners=joiners)

    def _draw(self, candidates: Sequence[str]) -> str:
        digest = sha256(f"kill|{self._seed}|{self._kills}".encode()).digest()
        self._kills += 1
        return candidates[int.from_bytes(digest[:8], "big") % len(candidates)]
