"""One end of a link that is being measured, a process of its own: ``python -m lowcomm_node.bench.link_end LOAD``.

Everything between the payload and the socket is what a node has; only the trainer is missing. The answerer writes a line
that says where it is and serves until its standard input ends; then, or after its last meeting, an end writes what it has seen.
"""

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from lowcomm_node.adapters.identity import Identity, load_or_create
from lowcomm_node.adapters.tcp import tune_connections
from lowcomm_node.bench.link_load import EndResult, LinkLoad, Whereabouts
from lowcomm_node.bench.link_node import LinkNode
from lowcomm_node.bench.link_tcp import answer_plainly, meet_plainly
from lowcomm_node.errors import LinkError

__all__ = ["main"]

_TUNE_EVERY_S = 1.0
_SAMPLE_EVERY_S = 0.05


async def _answer(load: LinkLoad, identity: Identity, result: EndResult) -> None:
    if load.carrier == "tcp":
        async with await answer_plainly(load) as serving:
            port = serving.sockets[0].getsockname()[1]
            _say(Whereabouts(address=f"{load.host}:{port}").to_json())
            await _until_stdin_ends()
        return
    node = LinkNode(load, identity)
    try:
        _say((await node.start()).to_json())
        sampling = asyncio.create_task(_sample(node, result))
        await _until_stdin_ends()
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
    finally:
        await node.stop()


async def _initiate(load: LinkLoad, identity: Identity, result: EndResult) -> None:
    if load.carrier == "tcp":
        result.meetings_s.extend(await meet_plainly(load))
        return
    node = LinkNode(load, identity)
    offer = secrets.token_bytes(load.offer_bytes)
    try:
        await node.start()
        probing = asyncio.create_task(_probe(node, load.probe_every_s, result))
        for _ in range(load.meetings):
            try:
                result.meetings_s.append(await node.meet(offer))
            except LinkError as error:
                result.failures.append(error.reason)
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
    finally:
        await node.stop()


async def _probe(node: LinkNode, every_s: float, result: EndResult) -> None:
    """Ask and be answered beside the payload, until cancelled."""
    while every_s:
        await asyncio.sleep(every_s)
        with suppress(LinkError):
            result.probes_s.append(await node.meet(b""))


async def _tuned(work: Coroutine[Any, Any, None]) -> None:
    tuning = asyncio.create_task(_tune())
    try:
        await work
    finally:
        tuning.cancel()
        await asyncio.gather(tuning, return_exceptions=True)


async def _tune() -> None:
    """As the daemon does."""
    while True:
        tune_connections()
        await asyncio.sleep(_TUNE_EVERY_S)


async def _sample(node: LinkNode, result: EndResult) -> None:
    while (received := node.received_bytes()) is not None:
        result.received.append((time.monotonic(), received))
        await asyncio.sleep(_SAMPLE_EVERY_S)


async def _until_stdin_ends() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Be one end; the result is the last line of standard output."""
    load = LinkLoad.from_json(arguments[0])
    result = EndResult()
    identity = load_or_create(Path(load.folder) / "identity.key")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        work = _answer(load, identity, result) if load.is_answerer else _initiate(load, identity, result)
        runner.run(_tuned(work))
    _say(result.to_json())


if __name__ == "__main__":
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    main(sys.argv[1:])
