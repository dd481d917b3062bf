"""The daemon process: logging, one uvloop, one node."""

import asyncio
import faulthandler
import gc
import os
from collections import deque

import uvloop

from lowcomm_node.adapters.nvml import gpu_reader
from lowcomm_node.daemon.join_options import JoinOptions
from lowcomm_node.daemon.lifecycle import Node
from lowcomm_node.daemon.notify import ServiceNotifier
from lowcomm_node.telemetry.logs import configure
from lowcomm_node.telemetry.metrics import Metrics

__all__ = ["run_node"]

_RECENT_LOG = 200
"""Messages from info on that are kept for a dump."""


def run_node(options: JoinOptions) -> None:
    """Live as a node until asked to leave. Raises LowcommError when the node cannot go on."""
    faulthandler.enable()  # a service manager whose watchdog has run out sends SIGABRT: where every thread was is then in the log
    metrics = Metrics(gpus=gpu_reader())
    service = ServiceNotifier.from_environment(os.environ)
    log = options.settings.log
    recent: deque[dict[str, str]] = deque(maxlen=_RECENT_LOG)
    configure(log.level, log.format, on_message=metrics.message_logged, recent=recent, environ=os.environ)

    async def live() -> None:
        await Node(options, metrics, service, recent).run()

    # What imports have made lives as long as the process: no collection, the one at its end least, need look through it.
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live())
