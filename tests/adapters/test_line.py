"""The owner's line, on a loop with a virtual clock."""

import asyncio

from lowcomm_node.adapters.line import Line
from tests.daemon.virtual_time import run_virtually

_FRAME = 256 << 10


def test_capped_payloads_take_their_time_and_control_does_not() -> None:
    """Two payloads together keep to the cap; a heartbeat beside them is on time each time; nothing is slowed the other way."""

    async def scenario() -> None:
        line = Line(up_bytes_per_s=2.5e6)
        loop = asyncio.get_running_loop()
        late: list[float] = []

        async def payload() -> None:
            for _ in range(40):
                await line.sending(_FRAME)

        async def heartbeat() -> None:
            while True:
                begun = loop.time()
                await line.sending(100)
                late.append(loop.time() - begun)
                await asyncio.sleep(0.25)

        beats = asyncio.create_task(heartbeat())
        begun = loop.time()
        await asyncio.gather(payload(), payload())
        took_s = loop.time() - begun
        beats.cancel()
        assert abs(80 * _FRAME / 2.5e6 / took_s - 1) < 0.05
        assert len(late) > 20
        assert max(late) == 0.0

        begun = loop.time()
        for _ in range(100):
            await line.received(_FRAME)
        assert loop.time() == begun
        assert line.sent_bytes == 80 * _FRAME + 100 * len(late)
        assert line.received_bytes == 100 * _FRAME

    run_virtually(scenario)
