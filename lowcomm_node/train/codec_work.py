"""What meetings cost the trainer, by what it does and in which codec."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lowcomm_node.units import Codec

__all__ = ["CodecWork"]


class CodecWork:
    """Sums over the life of this process. ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.done: dict[tuple[str, Codec], tuple[int, float]] = {}
        """How often, and seconds of it all; operations by the words of ``telemetry.catalogue``."""

    @contextmanager
    def of(self, operation: str, codec: Codec) -> Iterator[None]:
        """Count what is done inside, unless it fails: what was refused is no work on a meeting."""
        started = self._clock()
        yield
        times, seconds = self.done.get((operation, codec), (0, 0.0))
        self.done[operation, codec] = times + 1, seconds + self._clock() - started
