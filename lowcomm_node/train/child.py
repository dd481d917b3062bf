"""What the processes of training have in common: trainer, followers, and what fills a pool."""

import contextlib
import ctypes
import os
import signal
import sys
from typing import NoReturn

__all__ = ["EXIT_FAILED", "end_child", "prepare_child", "stand_back"]

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


def end_child(status: int) -> NoReturn:
    """What every such process does last: end with this status, and take nothing down piece by piece before."""
    # Libraries leave threads behind (Gloo's, Arrow's) that let go of tensors at any time. One that asks for the interpreter while
    # it shuts down is ended in the middle of C++, and the C++ library aborts the whole process.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, or nobody reads it any more
            stream.flush()
    os._exit(status)
