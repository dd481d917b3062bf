"""What a member tells of itself in its record for others to look at. Believed by nobody: no decision hangs on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2

__all__ = ["FOLDED_SUMS", "Vitals", "fold", "to_vitals"]

FOLDED_SUMS = 16
"""Few enough for a record in the DHT; over n members the spread is known to about 35 % / sqrt(n)."""
_MAX_LOSS = 1e6
_LARGEST_MARK = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """How it goes with one member."""

    validation_loss: float = 0.0
    """Newest loss on held-out text, nats per token; 0: none yet."""
    sketch: tuple[float, ...] = ()
    """Count sketch of its parameters, folded; empty: none yet."""
    sketch_mark: int = 0
    """At which mark of progress the sketch was made."""
    metrics_address: str = ""
    """host:port of its /metrics, as it says; empty: it keeps them to itself."""

    def to_wire(self) -> records_pb2.Vitals | None:
        """As it stands in a record; None when there is nothing to tell."""
        if self == Vitals():
            return None
        loss = self.validation_loss if math.isfinite(self.validation_loss) else 0.0
        return records_pb2.Vitals(
            validation_loss=loss,
            sketch=fold(self.sketch),
            sketch_mark=min(self.sketch_mark, _LARGEST_MARK),
            metrics_address=self.metrics_address,
        )


def fold(sketch: Sequence[float]) -> tuple[float, ...]:
    """A count sketch of fewer sums, of the same vector: buckets that are alike modulo the new number are added up.

    Empty where the number of sums is no multiple of the new one.
    """
    if len(sketch) % FOLDED_SUMS:
        return ()
    return tuple(sum(sketch[bucket::FOLDED_SUMS]) for bucket in range(min(FOLDED_SUMS, len(sketch))))


def to_vitals(told: records_pb2.Vitals, *, is_address: bool) -> Vitals:
    """What of it makes sense; the rest as if it had not been told, for a member is not to be missed for it.

    ``is_address``: the metrics address is a host and a port.
    """
    is_loss = math.isfinite(told.validation_loss) and 0.0 < told.validation_loss < _MAX_LOSS
    is_sketch = len(told.sketch) == FOLDED_SUMS and all(map(math.isfinite, told.sketch))
    return Vitals(
        validation_loss=told.validation_loss if is_loss else 0.0,
        sketch=tuple(told.sketch) if is_sketch else (),
        sketch_mark=told.sketch_mark if is_sketch else 0,
        metrics_address=told.metrics_address if is_address else "",
    )
