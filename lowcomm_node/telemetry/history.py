"""How it went since the node started, at bounded size: looks at the status, at first a few seconds apart, later more."""

from lowcomm_node.core.places import Fullness
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import History, Status

__all__ = ["HistoryRing"]

_FIRST_EVERY_S = 2.0
_MAX_LOOKS = 512
"""Enough for a plot of any width. Full, every second one goes and the distance doubles: the whole life stays in sight."""


_Look = tuple[float, float, float, float, float, float, float, int, int, int, int]
"""Of one moment, in the order of the columns of ``History``."""


class HistoryRing:
    """Written by the event loop; ``message`` may be called from any thread."""

    def __init__(self, *, every_s: float = _FIRST_EVERY_S, max_looks: int = _MAX_LOOKS) -> None:
        self._every_s = every_s
        self._max_looks = max_looks
        self._looks: list[_Look] = []
        self._due_at = float("-inf")

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self._looks), self._max_looks)

    def see(self, status: Status, now: float, unix_s: float) -> None:
        """Remember this status, which nobody changes any more, if it is time for it and there is training to tell of.

        ``now`` is on a monotonic clock.
        """
        if now < self._due_at or not status.training.steps:
            return
        looks = [*self._looks, _look_at(status, unix_s)]
        if len(looks) > self._max_looks:
            looks = looks[::-2][::-1]  # the newest stays
            self._every_s *= 2
        self._looks = looks  # replaced, never changed: a reader has one or the other
        self._due_at = now + self._every_s

    def message(self) -> History:
        """All of it, as the contract has it."""
        looks, every_s = self._looks, self._every_s
        columns = list(zip(*looks, strict=True)) or [()] * 11
        return History(
            every_seconds=every_s,
            unix_seconds=columns[0],
            loss=columns[1],
            validation_loss=columns[2],
            swarm_loss=columns[3],
            spread=columns[4],
            progress_steps=columns[5],
            tokens_per_second=columns[6],
            tokens=columns[7],
            bytes_sent=columns[8],
            bytes_received=columns[9],
            meetings=columns[10],
        )


def _look_at(status: Status, unix_s: float) -> _Look:
    training, swarm = status.training, status.swarm
    sent, received = (
        sum(entry.bytes for entry in status.meetings.bytes if entry.direction == direction)
        for direction in ("sent", "received")
    )
    return (
        unix_s,
        training.loss,
        training.validation_loss,
        swarm.validation_loss,
        swarm.spread,
        training.progress_steps,
        training.tokens_per_second,
        training.tokens,
        sent,
        received,
        status.meetings.completed,
    )
