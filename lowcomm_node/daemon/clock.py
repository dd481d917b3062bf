"""The real clocks."""

import time

__all__ = ["SystemClock"]


class SystemClock:
    """``ports.Clock`` on this machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
