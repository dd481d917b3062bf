"""``lowcomm-node status``: what the node on this machine is doing, and why."""

import argparse
import sys
from typing import TYPE_CHECKING

from lowcomm_node.cli.common import add_settings_arguments, settings_from, state_dir_of
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.words import ago, amount, count, duration, printable, size

if TYPE_CHECKING:
    from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import (
        AbGroup,
        AbStatus,
        LineStatus,
        MeetingStatus,
        Status,
        SwarmStatus,
        TrainingStatus,
    )

__all__ = ["ab_words", "add_arguments", "line_words", "reach_words", "rows", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="everything, for scripts; the fields of control.proto")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the node and print its answer. Raises NoNodeError when none is running."""
    from lowcomm_node.daemon.control import ControlClient
    from lowcomm_node.daemon.joining import how_to_join
    from lowcomm_node.daemon.plain import as_json

    settings, _ = settings_from(args)
    with ControlClient(state_dir_of(settings)) as client:
        status = client.status()
    if args.json:
        sys.stdout.write(as_json(status))
        return ExitCode.OK

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows(status):
        table.add_row(label, Text(value))
    console = Console()
    console.print(table)
    if how := how_to_join(status):
        # Outside the table, which would break the line: people copy it.
        console.print(Text("\n" + "\n".join(map(printable, how.splitlines()))), soft_wrap=True)
    return ExitCode.OK


def rows(status: "Status") -> list[tuple[str, str]]:
    """What the table says: label and value, only what is known yet."""
    found = [
        ("state", f"{status.state}: {printable(status.detail)}" if status.detail else status.state),
        ("run", f"{printable(status.run_name)}  {status.run_id[:12]}" if status.run_id else "none yet"),
        ("node", f"{status.peer_id}  version {status.version}, up {duration(status.uptime_seconds)}"),
    ]
    if status.reachability:
        found.append(("reachable", reach_words(status)))
    if status.training.parameters:
        found += _training_rows(status.training)
        found += _meeting_rows(status.meetings, status.peers_known)
    if status.swarm.members:
        found.append(("swarm", _swarm(status.swarm, _held_out(status.training))))
    if status.line.state:
        found.append(("line", line_words(status.line)))
    if status.http_address:
        found.append(("page", f"http://{printable(status.http_address)}/"))
    return found


def _held_out(training: "TrainingStatus") -> str:
    return "examples" if training.HasField("validation_accuracy") else "text"


def _swarm(swarm: "SwarmStatus", held_out: str) -> str:
    parts = [f"{count(swarm.members, 'other member')} told of themselves"]
    if swarm.validation_loss:
        parts.append(f"median loss {swarm.validation_loss:.3f} on held-out {held_out}")
    if swarm.spread:
        parts.append(f"spread {swarm.spread:.4g}")
    return ", ".join(parts)


def reach_words(status: "Status") -> str:
    """How others get to it."""
    words = {
        "public": "by everybody",
        "holepunched": "by those who punch a hole with it",
        "relayed": "by relay, so far",
        "outbound_only": "by nobody: it dials",
    }
    text = words.get(status.reachability, printable(status.reachability))
    if status.bells_own:
        text += f"; {count(status.bells_own, 'member')} can ring it"
    if status.bells_held:
        text += f"; it can ring {count(status.bells_held, 'member')}"
    return text


def _training_rows(training: "TrainingStatus") -> list[tuple[str, str]]:
    restarts = f", trainer restarted {count(training.restarts, 'time')}" if training.restarts else ""
    progress = f"{training.progress_steps:,.0f} of {training.total_steps:,} steps"
    share = f" ({training.progress_steps / training.total_steps:.0%})" if training.total_steps else ""
    found = [
        ("progress", f"{progress}{share}; {training.steps:,} done here, {amount(training.tokens)} tokens{restarts}"),
    ]
    if training.steps:
        pace = f"{training.tokens_per_second:,.0f} tokens/s, {training.step_seconds * 1000:,.0f} ms a step"
        parts = f", a batch in {training.micro_batches} parts" if training.micro_batches > 1 else ""
        found.append(("speed", f"{pace}{parts}, {amount(training.parameters)} parameters"))
        found.append(("loss", _loss(training)))
    if training.HasField("ab"):
        found.append(("stage", ab_words(training.ab)))
        found += [("", f"{printable(group.name)}: {_kept(group)}") for group in training.ab.groups]
    waited = ", ".join(
        f"{duration(seconds)} for {cause}" for cause, seconds in sorted(training.blocked_seconds.items()) if seconds > 0
    )
    found.append(("waited", f"{waited or 'never'}; exchanging took {duration(training.exchange_seconds)} of compute"))
    return found


def ab_words(ab: "AbStatus") -> str:
    """Where AB-training stands."""
    text = f"{printable(ab.stage)} of epoch {ab.epoch}" if ab.epoch else printable(ab.stage)
    doing = {
        "splitting": "; splitting the weights for all",
        "fetching": "; fetching frozen factors",
        "waiting": "; waiting for frozen factors",
    }
    text += doing.get(ab.doing, "")
    if not ab.digest:
        return f"{text}; everything is trained whole"
    text += f"; trains {ab.factor.upper()} with frozen factors {ab.digest[:8]}, as {count(ab.partners, 'other member')} known"
    # Not beside ordinary meetings, which may leave out most and be smaller still.
    size = f"meetings in role take {1 / ab.compression:.0%} of the bytes of whole tensors" if ab.compression > 0 else ""
    return "; ".join(filter(None, (text, f"{ab.energy_kept:.1%} of the energy kept", size)))


def _kept(group: "AbGroup") -> str:
    tensors = "" if group.tensors == 1 else f" over {count(group.tensors, 'tensor')}"
    return f"rank {group.rank:,} of {group.whole_rank:,}{tensors}, {group.energy_kept:.1%} of the energy"


def line_words(line: "LineStatus") -> str:
    """What it may take of the line, and has taken."""
    states = {
        "quiet": "quiet hours, nothing is sent or fetched",
        "saving": "waiting, this month's bytes have to last",
    }
    caps = [
        f"{direction} at most {cap:g} Mbit/s"
        for direction, cap in (("up", line.up_mbit_per_second), ("down", line.down_mbit_per_second))
        if cap
    ]
    budget = f" of {size(line.month_limit_bytes)}" if line.month_limit_bytes else ""
    parts = [states.get(line.state, "open"), *caps, f"{size(line.month_used_bytes)}{budget} this month"]
    if line.congestion_control:
        parts.append(f"TCP {printable(line.congestion_control)}")
    return ", ".join(parts)


def _loss(training: "TrainingStatus") -> str:
    text = f"{training.loss:.3f} in training"
    if training.validation_loss > 0:
        text += f", {training.validation_loss:.3f} on held-out {_held_out(training)}"
        if training.started_loss > 0:
            text += f" (at the start {training.started_loss:.3f})"
        if training.bits_per_byte:
            text += f", {training.bits_per_byte:.3f} bits per byte"
        if training.HasField("validation_accuracy"):
            text += f", accuracy {training.validation_accuracy:.1%}"
    return f"{text}; learning rate {training.learning_rate:.2e}, gradient norm {training.gradient_norm:.2f}"


def _meeting_rows(meetings: "MeetingStatus", peers_known: int) -> list[tuple[str, str]]:
    text = f"{meetings.completed:,} completed"
    if meetings.completed:
        text += f", {meetings.mean_duration_seconds:.2f} s on average"
        if set(meetings.links) - {"grpc"}:
            text += f" ({', '.join(f'{number} over {link}' for link, number in sorted(meetings.links.items()))})"
    if meetings.failed:
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(meetings.failed.items()))
        text += f"; failed: {reasons}"
    if meetings.half:
        text += f"; HALF: {meetings.half}"
    if meetings.last_partner:
        text += f"; last with …{meetings.last_partner[-8:]} {ago(meetings.last_meeting_ago_seconds)}"
    found = [("meetings", text)]
    if meetings.current:
        found.append(("now", f"in a meeting: {printable(meetings.current)}"))
    sent, received = (
        sum(entry.bytes for entry in meetings.bytes if entry.direction == direction)
        for direction in ("sent", "received")
    )
    found.append(("traffic", f"{size(sent)} sent, {size(received)} received"))
    found.append(("peers", f"{count(peers_known, 'other member')} known"))
    return found
