"""The trainer process, but its weights go bad at its thirtieth step, as from a broken memory; once in a state directory."""

import os
import sys
from pathlib import Path

from lowcomm_node.train.batches import Batch
from lowcomm_node.train.process import main
from lowcomm_node.train.replica import Replica, StepResult

MARKER = "TEST_WENT_BAD"
"""Environment variable: the file that says it has happened."""
_BAD_AT_STEP = 30

_sound = Replica.train_step


def _step(self: Replica, batch: Batch) -> StepResult:
    marker = Path(os.environ[MARKER])
    if self.steps >= _BAD_AT_STEP and not marker.exists():
        marker.touch()
        for theta in self.theta:
            theta.fill_(float("nan"))
    return _sound(self, batch)


if __name__ == "__main__":
    Replica.train_step = _step  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
