"""Keeps to what the owner allows of the line: looks at the clock and at the month's bytes, and opens or closes the line."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.tcp import congestion_control, tune_connections
from lowcomm_node.adapters.traffic_ledger import TrafficLedger
from lowcomm_node.core.allowance import Allowance, LineState
from lowcomm_node.core.events import LineChanged
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import LinkError, StoreError
from lowcomm_node.settings.hours import parse_hours
from lowcomm_node.settings.node import BandwidthSettings
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import LineStatus

__all__ = ["LineWatch"]

_LOOK_S = 1.0
_SAVE_S = 60.0
_BYTES_PER_MBIT = 125_000.0
_BYTES_PER_GB = 1e9


class LineWatch:
    """Owns the node's ``Line``. One life each.

    Args:
        settings: the owner's caps, hours and budget.
        state_dir: where the month's bytes are remembered.
        recorder: is told of changes.
        now: the machine's local time, aware of its zone.
    """

    def __init__(
        self,
        settings: BandwidthSettings,
        state_dir: Path,
        recorder: Recorder,
        *,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._settings = settings
        self.line = Line(
            up_bytes_per_s=settings.up_mbit_per_s * _BYTES_PER_MBIT,
            down_bytes_per_s=settings.down_mbit_per_s * _BYTES_PER_MBIT,
        )
        self.state = LineState.OPEN
        self.month_used_bytes = 0
        """Sent and received in the current calendar month, earlier lives of this node included."""
        self._allowance = Allowance(
            quiet_hours=parse_hours(settings.quiet_hours), month_bytes=settings.monthly_gb * _BYTES_PER_GB
        )
        self._ledger = TrafficLedger(state_dir)
        self._recorder = recorder
        self._log = get_logger("line")
        self._now = now
        self._month = ""
        self._counted_bytes = 0
        self._saved_bytes = 0
        self._was_open = True
        """As was last told; a core begins with an open line."""
        self._congestion_control = congestion_control()
        """Asked now and then: a status is made four times a second, and each answer is two files of the kernel's."""

    def open_ledger(self) -> None:
        """Find out what this month has cost before. Raises StoreError for a damaged file."""
        self._month = _month_of(self._now())
        self.month_used_bytes = self._saved_bytes = self._ledger.load(self._month)
        self._look()  # a start may fall into quiet hours

    async def run(self, handle: Callable[[LineChanged], None]) -> None:
        """Look once a second, for as long as the node trains; ``handle`` is told when the line opens or closes."""
        next_save = 0.0
        loop = asyncio.get_running_loop()
        while True:
            tune_connections()
            self._look()
            if self._was_open != self.line.is_open:
                self._was_open = self.line.is_open
                handle(LineChanged(is_open=self.line.is_open))
            if loop.time() >= next_save:
                next_save = loop.time() + _SAVE_S
                self._congestion_control = congestion_control()
                await asyncio.to_thread(self.save)
            await asyncio.sleep(_LOOK_S)

    def check_open(self, what: str) -> None:
        """Raise LinkError where the owner's rules keep the line closed now: why, and from when on ``what`` may use it."""
        if self.line.is_open:
            return
        now = self._now()
        if self.state is LineState.QUIET:
            opens = now.replace(second=0) + timedelta(minutes=self._allowance.quiet_for_min(60 * now.hour + now.minute))
            raise LinkError("line", f"quiet hours (bandwidth.quiet_hours); {what} from {opens:%H:%M} on")
        opens = _at_share(now, self._allowance.saves_until(self.month_used_bytes))
        raise LinkError(
            "line", f"this month's bytes have to last (bandwidth.monthly_gb); {what} from {opens:%d %B, %H:%M} on"
        )

    def status(self) -> LineStatus:
        """For people."""
        return LineStatus(
            state=self.state.value,
            up_mbit_per_second=self._settings.up_mbit_per_s,
            down_mbit_per_second=self._settings.down_mbit_per_s,
            month_used_bytes=self.month_used_bytes,
            month_limit_bytes=int(self._allowance.month_bytes),
            congestion_control=self._congestion_control,
        )

    def save(self) -> None:
        """Write down what this month has cost. A disk that is full must not end a node that trains."""
        used = self.month_used_bytes
        if used == self._saved_bytes:
            return
        try:
            self._ledger.save(self._month, used)
            self._saved_bytes = used
        except StoreError as error:
            self._log.warning("traffic_not_saved", detail=str(error))

    def _look(self) -> None:
        now = self._now()
        month = _month_of(now)
        if month != self._month:
            self._month, self.month_used_bytes = month, 0
        moved = self.line.sent_bytes + self.line.received_bytes
        self.month_used_bytes += moved - self._counted_bytes
        self._counted_bytes = moved
        state = self._allowance.line_state(
            minute_of_day=60 * now.hour + now.minute,
            used_bytes=self.month_used_bytes,
            month_share=_share_of_month(now),
        )
        self._recorder.metrics.line_used(
            is_open=state is LineState.OPEN,
            month_bytes=self.month_used_bytes,
            sent_bytes=self.line.sent_bytes,
            received_bytes=self.line.received_bytes,
        )
        if state is self.state:
            return
        self.state = state
        self.line.is_open = state is LineState.OPEN
        self._recorder.line_changed(state, self.month_used_bytes)


def _month_of(now: datetime) -> str:
    return f"{now:%Y-%m}"


def _share_of_month(now: datetime) -> float:
    begin, end = _month_around(now)
    return (now - begin) / (end - begin)


def _at_share(now: datetime, share: float) -> datetime:
    begin, end = _month_around(now)
    return begin + share * (end - begin)


def _month_around(now: datetime) -> tuple[datetime, datetime]:
    begin = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return begin, (begin + timedelta(days=32)).replace(day=1)
