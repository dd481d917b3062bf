"""``lowcomm-node leave``: ask the node on this machine to finish its meeting, save its state and stop."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from lowcomm_node.cli.common import add_settings_arguments, settings_from, state_dir_of
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.words import count, duration, printable

if TYPE_CHECKING:
    from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import Status

__all__ = ["Asked", "add_arguments", "run", "wait_until_gone"]

_POLL_EVERY_S = 0.2


class Asked(Protocol):
    """What is asked of the node while it leaves; ``daemon.control.ControlClient`` is one."""

    def status(self) -> "Status": ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="how long to wait for it (default: 60)"
    )
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask, wait, and say what happened. Raises NoNodeError when none is running."""
    from lowcomm_node.daemon.control import ControlClient

    settings, _ = settings_from(args)
    with ControlClient(state_dir_of(settings)) as client:
        before = client.status()
        client.leave()
        print(f"Asked node …{before.peer_id[-8:]} to leave run {printable(before.run_name) or 'none'}.", flush=True)
        started = time.monotonic()
        last, has_left = wait_until_gone(client, before, args.timeout, print, time.monotonic, time.sleep)
        took = duration(time.monotonic() - started)
    if not has_left:
        sys.stderr.write(
            f"error: the node has not left after {took}; it is {last.state}: {printable(last.detail)}\n"
            "It goes on leaving by itself; SIGTERM to its process ends it at once.\n"
        )
        return ExitCode.FAILED
    print(
        f"It left after {took}, with {count(last.training.steps, 'step')} done here and "
        f"{count(last.meetings.completed, 'meeting')} completed ({last.meetings.half} half)."
    )
    return ExitCode.OK


def wait_until_gone(
    client: Asked,
    last: "Status",
    timeout_s: float,
    say: Callable[[str], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> tuple["Status", bool]:
    """Watch the node until it answers no more or ``timeout_s`` is over; changes of what it does are said.

    Returns the last status seen and whether the node has gone.
    """
    from lowcomm_node.daemon.control import NodeSilentError, NoNodeError

    deadline = clock() + timeout_s
    while clock() < deadline:
        try:
            status = client.status()
        except NoNodeError:
            return last, True
        except NodeSilentError:
            status = last
        if (status.state, status.detail) != (last.state, last.detail):
            say(f"{status.state}: {printable(status.detail)}" if status.detail else status.state)
        last = status
        sleep(_POLL_EVERY_S)
    return last, False
