"""Hours, months and budgets as a node lives through them, on a virtual clock."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lowcomm_node.adapters.traffic_ledger import TrafficLedger
from lowcomm_node.core.allowance import LineState
from lowcomm_node.core.events import LineChanged
from lowcomm_node.daemon.line_watch import LineWatch
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import LinkError
from lowcomm_node.settings.node import BandwidthSettings
from lowcomm_node.telemetry.metrics import Metrics
from tests.daemon.virtual_time import run_virtually

_BEGIN = datetime(2026, 11, 30, 21, 59, 0, tzinfo=UTC)


class Owner:
    """A watch whose local time goes with the loop's, and what it has told the core."""

    def __init__(self, state_dir: Path, settings: BandwidthSettings, begin: datetime = _BEGIN) -> None:
        self.metrics = Metrics()
        self.told: list[tuple[float, bool]] = []
        loop = asyncio.get_running_loop()
        self.now: Callable[[], datetime] = lambda: begin + timedelta(seconds=loop.time())
        self.watch = LineWatch(settings, state_dir, Recorder(self.metrics), now=self.now)
        self.watch.open_ledger()

    async def live(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(self.watch.run(lambda event: self._told(loop.time(), event)))
        await asyncio.sleep(seconds)
        task.cancel()

    def _told(self, now: float, event: LineChanged) -> None:
        self.told.append((now, event.is_open))


def test_the_line_closes_and_opens_with_the_hours(tmp_path: Path) -> None:
    """Within a second of the minute, and the core, the line and the metric agree."""

    async def scenario() -> None:
        owner = Owner(tmp_path, BandwidthSettings(quiet_hours="22:00-22:10"))
        await owner.live(120.0)
        assert [(60 <= at <= 61.5, is_open) for at, is_open in owner.told] == [(True, False)]
        assert owner.watch.state is LineState.QUIET
        assert not owner.watch.line.is_open
        assert "lowcomm_line_closed 1.0" in owner.metrics.exposition().decode()
        await owner.live(700.0)
        assert [is_open for _, is_open in owner.told] == [False, True]
        assert owner.watch.line.is_open

    run_virtually(scenario)


def test_a_budget_outlives_a_restart_and_begins_anew_with_the_month(tmp_path: Path) -> None:
    """What an earlier life has used counts, is written within a minute, and is forgotten at the end of the month."""

    async def scenario() -> None:
        TrafficLedger(tmp_path).save("2026-11", 900_000_000)
        settings = BandwidthSettings(monthly_gb=1.0)
        owner = Owner(tmp_path, settings)
        await owner.live(5.0)
        assert owner.told == []
        owner.watch.line.sent_bytes += 60_000_000
        owner.watch.line.received_bytes += 50_000_000
        await owner.live(70.0)
        assert owner.watch.state is LineState.SAVING
        assert [is_open for _, is_open in owner.told] == [False]
        assert TrafficLedger(tmp_path).load("2026-11") == 1_010_000_000
        assert owner.watch.status().month_used_bytes == 1_010_000_000

        second = Owner(tmp_path, settings)
        await second.live(2.0)
        assert second.watch.state is LineState.SAVING

        december = Owner(tmp_path, settings, _BEGIN + timedelta(hours=2))
        await december.live(2.0)
        assert december.watch.state is LineState.OPEN
        assert december.watch.month_used_bytes == 0

    run_virtually(scenario)


def test_a_start_in_quiet_hours_says_when_it_goes_on(tmp_path: Path) -> None:
    """The line is closed before anything is asked of it, the core hears it, and people hear until when; so with a used-up budget."""

    async def scenario() -> None:
        quiet = Owner(tmp_path, BandwidthSettings(quiet_hours="21:00-07:00"))
        assert not quiet.watch.line.is_open
        with pytest.raises(LinkError, match=r"quiet_hours\); the state is fetched from 07:00 on"):
            quiet.watch.check_open("the state is fetched")
        await quiet.live(2.0)
        assert [is_open for _, is_open in quiet.told] == [False]

        TrafficLedger(tmp_path).save("2026-11", 2_000_000_000)
        saving = Owner(tmp_path, BandwidthSettings(monthly_gb=1.0))
        with pytest.raises(LinkError, match=r"monthly_gb\); the state is fetched from 01 December, 00:00 on"):
            saving.watch.check_open("the state is fetched")
        Owner(tmp_path, BandwidthSettings(quiet_hours="22:00-07:00")).watch.check_open("the state is fetched")

    run_virtually(scenario)
