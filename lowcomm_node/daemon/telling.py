"""A line in the log now and then, for whoever watches it."""

import asyncio
from typing import NoReturn

from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.training import Training

__all__ = ["tell"]

_FIRST_TOLD_S = 10.0
_TOLD_EVERY_S = 60.0


async def tell(training: Training, recorder: Recorder) -> NoReturn:
    """How training goes, as long as steps are taken."""
    wait_s = _FIRST_TOLD_S
    while True:
        await asyncio.sleep(wait_s)
        wait_s = _TOLD_EVERY_S
        if training.has_state and training.report is not None and not training.report.is_finished:
            recorder.progress(training.report)
