"""``lowcomm-node healthcheck``: does the node on this machine live? For container engines; asks its local port and loads nothing heavy."""

import argparse
import http.client
import ipaddress

from lowcomm_node.cli.common import add_settings_arguments, settings_from
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.words import printable
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.node import MetricsSettings

__all__ = ["add_arguments", "run"]

_MAX_ANSWER_BYTES = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--ready", action="store_true", help="does it take part in meetings, too?")
    parser.add_argument(
        "--timeout", type=float, default=5.0, metavar="SECONDS", help="how long to wait for an answer (default: 5)"
    )
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask, and print the answer: the status is 0 when it is yes, and 1 when it is no or does not come.

    The port's threads answer when the node's loop is stuck, and say so. Raises ConfigError when no port is known.
    """
    settings, _ = settings_from(args)
    host, port = _where(settings.metrics)
    path = "/readyz" if args.ready else "/livez"
    connection = http.client.HTTPConnection(host, port, timeout=args.timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read(_MAX_ANSWER_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer from {host}:{port}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}")
        return ExitCode.FAILED
    finally:
        connection.close()
    print("\n".join(map(printable, text.splitlines())))
    return ExitCode.OK if response.status == http.client.OK else ExitCode.FAILED


def _where(metrics: MetricsSettings) -> tuple[str, int]:
    """Host and port of the node with these settings."""
    if not metrics.port:
        raise ConfigError("metrics.port = 0 is a port that only the node itself knows; give it a number")
    try:
        address = ipaddress.ip_address(metrics.host)
    except ValueError:
        return metrics.host, metrics.port
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "::1", metrics.port
    return metrics.host, metrics.port
