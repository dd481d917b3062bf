"""Echoes of members: over connections that are there, told to metrics, and never on a closed line."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.probe import ProbeService
from lowcomm_node.daemon.pulse import Pulse
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.telemetry.metrics import Metrics
from tests.adapters.nodes import Port, channels_of, run, some_peer, somebody

_PEER = some_peer(1)


@asynccontextmanager
async def _member() -> AsyncIterator[ChannelCache]:
    """Channels of somebody that lead to a member."""
    port = Port(somebody(1))
    contacts = Contacts()
    contacts.learn(await port.start(ProbeService(Line(), caller=port.door.caller).handler()))
    channels = channels_of(somebody(2), contacts)
    try:
        yield channels
    finally:
        await channels.close()
        await port.server.stop(0.1)


def _echoes(metrics: Metrics) -> float:
    page = metrics.exposition().decode()
    (line,) = (line for line in page.splitlines() if line.startswith("lowcomm_peer_rtt_seconds_count"))
    return float(line.split()[1])


def test_only_who_is_connected_is_asked() -> None:
    """Nobody is dialled for an echo; once there is a connection, round trip and clock are measured."""

    async def scenario() -> None:
        async with _member() as channels:
            metrics = Metrics()
            pulse = Pulse(channels, Line(), Recorder(metrics))
            await pulse.beat()
            assert _echoes(metrics) == 0
            async with channels.lend(_PEER):
                pass
            await pulse.beat()
            assert _echoes(metrics) == 1
            (clock,) = (
                float(line.split()[1])
                for line in metrics.exposition().decode().splitlines()
                if line.startswith("lowcomm_clock_ahead_seconds")
            )
            assert not math.isnan(clock)

    run(scenario())


def test_a_closed_line_is_left_alone() -> None:
    """In quiet hours nothing is asked, however many are connected."""

    async def scenario() -> None:
        async with _member() as channels:
            async with channels.lend(_PEER):
                pass
            metrics, line = Metrics(), Line()
            line.is_open = False
            pulse = asyncio.create_task(Pulse(channels, line, Recorder(metrics), every_s=0.0).run())
            for _ in range(50):
                await asyncio.sleep(0)
            assert _echoes(metrics) == 0
            pulse.cancel()
            await asyncio.gather(pulse, return_exceptions=True)

    run(scenario())


@contextmanager
def _warnings(monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> Iterator[list[str]]:
    said: list[str] = []

    class Log:
        def warning(self, event: str, **_: object) -> None:
            said.append(event)

        def debug(self, event: str, **_: object) -> None:
            pass

    monkeypatch.setattr(recorder, "_log", Log())
    yield said


def test_a_wrong_clock_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with each echo; again when it was right in between."""
    recorder = Recorder(Metrics())
    with _warnings(monkeypatch, recorder) as said:
        for ahead_s in (0.2, -1.5, -1.6, math.nan, 0.1, 3.0):
            recorder.echo_heard(_PEER, 0.01, ahead_s)

    assert said == ["clock_wrong", "clock_wrong"]
