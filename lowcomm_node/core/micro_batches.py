"""In how many parts is a batch taken, one after the other? As few as the memory allows: more cost time, and change nothing else."""

__all__ = ["MicroBatches", "fitting_parts", "more_micro_batches"]

_FIRST_PATIENCE_STEPS = 100
_LONGEST_PATIENCE_STEPS = 12_800
"""A try that fails costs about a step."""


def more_micro_batches(micro_batches: int, batch_size: int) -> int | None:
    """The next number of parts to take a batch of ``batch_size`` examples in; None when there is no smaller part."""
    return min(2 * micro_batches, batch_size) if micro_batches < batch_size else None


def fitting_parts(example_bytes: int, batch_size: int, room_bytes: int) -> int:
    """The least number of parts, by doubling, whose examples are expected to fit; ``batch_size`` where none does."""
    parts = 1
    while (more := more_micro_batches(parts, batch_size)) is not None:
        if example_bytes * -(-batch_size // parts) <= room_bytes:
            break
        parts = more
    return parts


class MicroBatches:
    """The number of parts of one trainer's batches.

    Grows when memory runs out. Where that is an error and not the process's end (``may_shrink``), it is tried from time to time
    whether fewer parts fit again, because whoever took the memory may be gone: never fewer than at the start, and twice as
    rarely after each try that failed.
    """

    def __init__(self, parts: int, *, may_shrink: bool) -> None:
        self._least = parts
        self._may_shrink = may_shrink
        self._parts = parts
        self._before_try = 0
        """Parts before the last try to take fewer, which has not failed yet; 0 without one."""
        self._fitted_steps = 0
        self._patience_steps = _FIRST_PATIENCE_STEPS

    @property
    def parts(self) -> int:
        """Parts that the next batch is taken in, if it has as many examples."""
        return self._parts

    def fitted(self) -> None:
        """A step has been taken in this many parts."""
        self._fitted_steps += 1
        if self._may_shrink and self._parts > self._least and self._fitted_steps >= self._patience_steps:
            self._before_try, self._parts = self._parts, max(self._least, self._parts // 2)
            self._fitted_steps = 0

    def fell_short(self, batch_size: int) -> bool:
        """Memory has run out; False when there are no smaller parts of a batch of ``batch_size`` examples."""
        more = more_micro_batches(min(self._parts, batch_size), batch_size)
        if more is None:
            return False
        if self._before_try:
            more, self._before_try = max(more, min(self._before_try, batch_size)), 0
            self._patience_steps = min(2 * self._patience_steps, _LONGEST_PATIENCE_STEPS)
        self._parts, self._fitted_steps = more, 0
        return True
