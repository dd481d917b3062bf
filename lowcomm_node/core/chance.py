"""Reproducible chance: every random choice of the core comes from a seed and a counter, never from a library's stream."""

import hashlib

__all__ = ["Chance"]


class Chance:
    """A sequence of draws fixed by its seed; the same seed gives the same choices on every version and machine."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._count = 0

    def token(self) -> bytes:
        """16 bytes nobody else draws."""
        self._count += 1
        return self.drawn(self._count)

    def drawn(self, index: int) -> bytes:
        """The token that is drawn ``index``-th, from 1; draws nothing."""
        return hashlib.sha256(self._seed + index.to_bytes(8, "big")).digest()[:16]

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return int.from_bytes(self.token()[:7], "big") / 2**56

    def below(self, bound: int) -> int:
        """A whole number in 0 .. bound - 1."""
        return int(self.uniform() * bound)
