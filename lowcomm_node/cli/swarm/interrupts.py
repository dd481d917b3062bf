"""Ctrl+C and friends as a flag the swarm looks at, so that everything is ended in order."""

import signal
import time
from types import FrameType, TracebackType
from typing import Self

from lowcomm_node.cli.exit_codes import ExitCode

__all__ = ["Interrupts"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SLICE_S = 0.1


class Interrupts:
    """While entered, counts signals that ask for an end instead of letting them end the process."""

    def __init__(self) -> None:
        self.count = 0
        self._first: int | None = None
        self._before: dict[signal.Signals, signal.Handlers | object] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned before

    def __bool__(self) -> bool:
        """Somebody wants an end."""
        return self.count > 0

    @property
    def exit_code(self) -> int:
        """130 after Ctrl+C, 143 after SIGTERM, 129 after a hang-up; 0 without a signal."""
        if self._first == signal.SIGINT:
            return ExitCode.INTERRUPTED
        return 0 if self._first is None else 128 + self._first

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond a signal.

        In slices: an Event that a handler sets while the same thread waits for it can deadlock.
        """
        until_s = time.monotonic() + seconds
        before = self.count
        while self.count == before and (left := until_s - time.monotonic()) > 0:
            time.sleep(min(_SLICE_S, left))

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.count += 1
        if self._first is None:
            self._first = number
