"""SIGTERM and SIGINT: the first lets the node leave in order, the second ends it at once."""

import asyncio
import os
import signal
from collections.abc import Callable

from lowcomm_node.telemetry.logs import get_logger

__all__ = ["obey_signals"]


def obey_signals(leave: Callable[[], None], kill: Callable[[], None]) -> None:
    """From now on, in the running loop. ``kill`` ends what would not end with this process by itself."""
    num_signals = 0

    def signalled(number: int) -> None:
        nonlocal num_signals
        num_signals += 1
        if num_signals > 1:
            kill()
            os._exit(128 + number)
        get_logger("node").info("leaving", signal=signal.Signals(number).name)
        leave()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled, number)
