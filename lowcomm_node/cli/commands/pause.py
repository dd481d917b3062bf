"""``lowcomm-node pause``: have the node on this machine save its state and give back processor, memory and GPU, until told otherwise."""

import argparse
import re
import sys
import time

from lowcomm_node.cli.common import add_settings_arguments, settings_from, state_dir_of
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.words import duration, printable
from lowcomm_node.errors import ConfigError

__all__ = ["add_arguments", "run"]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 366 * 86400
_POLL_EVERY_S = 0.2
_UNTRAINED = frozenset({"starting", "connecting"})
"""Nothing is trained yet; such a node pauses when it comes to it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--for", dest="length", metavar="TIME", help="how long, such as 90m, 2h or 1d; else until 'resume'"
    )
    parser.add_argument(
        "--timeout", type=float, default=90.0, metavar="SECONDS", help="how long to wait for it (default: 90)"
    )
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask, and wait until the trainer has ended. Raises NoNodeError when no node is running."""
    from lowcomm_node.daemon.control import ControlClient

    length_s = _seconds(args.length) if args.length is not None else 0
    settings, _ = settings_from(args)
    with ControlClient(state_dir_of(settings)) as client:
        client.pause(float(length_s))
        started = time.monotonic()
        said = ""
        while (status := client.status()).state != "paused" and time.monotonic() - started < args.timeout:
            if status.detail != said and status.state == "pausing":
                print(f"{status.state}: {printable(status.detail)}", flush=True)
                said = status.detail
            if status.state in _UNTRAINED:
                print(f"It is {status.state}, and will pause before it trains: {printable(status.detail)}")
                return ExitCode.OK
            time.sleep(_POLL_EVERY_S)
        took = duration(time.monotonic() - started)
    if status.state != "paused":
        sys.stderr.write(
            f"error: the node has not paused after {took}; it is {status.state}: {printable(status.detail)}\n"
        )
        return ExitCode.FAILED
    end = f"it goes on after {duration(length_s)}, or with" if length_s else "it goes on with"
    print(f"Paused after {took}, its trainer has ended; {end} 'lowcomm-node resume'.")
    return ExitCode.OK


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,8})([smhd])", text)
    seconds = int(match[1]) * _UNITS_S[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST_S:
        raise ConfigError(f"--for {text}: give a time up to a year, such as 90m, 2h or 1d")
    return seconds
