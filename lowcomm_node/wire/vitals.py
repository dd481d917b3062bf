"""What a member tells of itself in its record for others to look at. Believed by nobody: no decision hangs on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lowcomm_node.core.spread import MOST_SKETCHES, MarkedSketch
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import TrainingStatus

__all__ = ["FOLDED_SUMS", "Vitals", "fold", "sketches_in", "to_vitals"]

FOLDED_SUMS = 16
"""Few enough for a record in the DHT; over n members the spread is known to about 35 % / sqrt(n)."""
_MAX_LOSS = 1e6
_NO_SKETCH = MarkedSketch(0, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """How it goes with one member."""

    validation_loss: float = 0.0
    """Newest loss on held-out text, nats per token; 0: none yet."""
    sketches: tuple[MarkedSketch, ...] = ()
    """Count sketches of its parameters, folded, newest first; empty: none yet."""
    metrics_address: str = ""
    """host:port of its /metrics, as it says; empty: it keeps them to itself."""

    def to_wire(self) -> records_pb2.Vitals | None:
        """As it stands in a record; None when there is nothing to tell."""
        if self == Vitals():
            return None
        loss = self.validation_loss if math.isfinite(self.validation_loss) else 0.0
        newest, *older = self.sketches[:MOST_SKETCHES] or (_NO_SKETCH,)
        return records_pb2.Vitals(
            validation_loss=loss,
            sketch=newest.sums,
            sketch_mark=newest.mark,
            older_sketches=[records_pb2.MarkedSketch(mark=mark, sums=sums) for mark, sums in older],
            metrics_address=self.metrics_address,
        )


def fold(sketch: Sequence[float]) -> tuple[float, ...]:
    """A count sketch of fewer sums, of the same vector: buckets that are alike modulo the new number are added up.

    Empty where the number of sums is no multiple of the new one.
    """
    if len(sketch) % FOLDED_SUMS:
        return ()
    return tuple(sum(sketch[bucket::FOLDED_SUMS]) for bucket in range(min(FOLDED_SUMS, len(sketch))))


def sketches_in(told: records_pb2.Vitals | TrainingStatus) -> list[MarkedSketch]:
    """As they stand there, newest first; none without a sum."""
    found = [MarkedSketch(told.sketch_mark, tuple(told.sketch))]
    found += [MarkedSketch(older.mark, tuple(older.sums)) for older in told.older_sketches]
    return [sketch for sketch in found if sketch.sums]


def to_vitals(told: records_pb2.Vitals, *, is_address: bool) -> Vitals:
    """What of it makes sense; the rest as if it had not been told, for a member is not to be missed for it.

    ``is_address``: the metrics address is a host and a port.
    """
    is_loss = math.isfinite(told.validation_loss) and 0.0 < told.validation_loss < _MAX_LOSS
    return Vitals(
        validation_loss=told.validation_loss if is_loss else 0.0,
        sketches=tuple(sketch for sketch in sketches_in(told)[:MOST_SKETCHES] if _is_folded(sketch.sums)),
        metrics_address=told.metrics_address if is_address else "",
    )


def _is_folded(sums: Sequence[float]) -> bool:
    return len(sums) == FOLDED_SUMS and all(map(math.isfinite, sums))
