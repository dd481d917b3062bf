"""What the processes of training have in common: trainer, followers, and what fills a pool."""

import contextlib
import ctypes
import os
import signal
import sys

__all__ = ["EXIT_FAILED", "prepare_child", "stand_back"]

EXIT_FAILED = 1
"""After its last words: of a trainer, a Failed message with ``is_fatal``."""
_PR_SET_PDEATHSIG = 1


def prepare_child() -> None:
    """What every process that the daemon or its trainer starts does first: leave signals to them, and end with them."""
    # Ctrl+C, and some service managers' SIGTERM, reach the whole process group; the daemon decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ.pop("NOTIFY_SOCKET", None)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def stand_back(nice: int) -> None:
    """Let others go first on the processor; those who already stand back further stay where they are."""
    # Threads and followers that are started from now on inherit it. A sandbox may refuse it, which is no reason not to train.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
