"""One frame: what a node does, with whom, how far, how fast, why it waits, whether it helps, and what it has given."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from lowcomm_node.cli.commands.peers import OVER
from lowcomm_node.cli.commands.status import ab_words, line_words, reach_words
from lowcomm_node.cli.top.sparkline import bar, differences, sparkline
from lowcomm_node.cli.words import ago, amount, count, duration, printable, size
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import History, Peer, Peers, Status

__all__ = ["Sight", "frame"]

_LABEL = 10
_SPARK = 24
_NOTICEABLE_S = 0.05
_RATE_LOOKS = 30
"""Looks over which the pace is taken."""
_STATE_STYLES = {
    "training": "green",
    "finished": "bold green",
    "failed": "bold red",
    "draining": "yellow",
    "paused": "yellow",
}
_CAUSES = {"meeting": "for meetings", "data": "for data", "sync": "for state", "checkpoint": "for checkpoints"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was seen of a node at one moment."""

    status: Status
    peers: Peers
    history: History
    problem: str = ""
    """Why this is not new; empty when it is."""


def frame(sight: Sight, width: int, height: int) -> list[Text]:
    """Lines for a screen of this size; members fill what is left of it. Nothing is wider or higher than the screen."""
    lines = [*_head(sight, width), *_training(sight, width), *_meetings(sight, width)]
    lines.append(_rule("members", width))
    left = max(0, height - len(lines) - 1)
    lines += itertools.islice(_members(sight.peers.peers), left)
    lines = lines[: max(1, height - 1)]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _head(sight: Sight, width: int) -> Iterator[Text]:
    status = sight.status
    run = f"{printable(status.run_name)} {status.run_id[:12]}" if status.run_id else "no run yet"
    right = f"…{status.peer_id[-8:]}  {status.version}  up {duration(status.uptime_seconds)}"
    yield Text().append(f"{run:<{max(0, width - len(right))}}", style="bold").append(right, style="dim")
    if sight.problem:
        yield Text(f"NOT NEW: {printable(sight.problem)}", style="bold red")
    line = Text().append(f"{status.state:<{_LABEL}}", style=_STATE_STYLES.get(status.state, "cyan"))
    yield line.append(printable(status.detail) or _what_now(status))


def _what_now(status: Status) -> str:
    if status.state != "training":
        return ""
    if status.meetings.current:
        return f"and in a meeting: {printable(status.meetings.current)}"
    if status.line.state == "quiet":
        return "no meetings in the quiet hours"
    if status.line.state == "saving":
        return "meetings wait, so that this month's bytes last"
    return "until the next meeting" if status.peers_known else "alone: no other member is known"


def _training(sight: Sight, width: int) -> Iterator[Text]:
    training, swarm, history = sight.status.training, sight.status.swarm, sight.history
    if not training.parameters:
        return
    yield _rule("training", width)
    share = training.progress_steps / training.total_steps if training.total_steps else 0.0
    left = _seconds_left(history, training.total_steps)
    yield _row(
        "how far",
        f"{bar(share, _SPARK)} {share:4.0%}  {training.progress_steps:,.0f} of {training.total_steps:,} steps"
        + (f", {duration(left)} left" if left is not None else ""),
    )
    speed = f"{training.tokens_per_second:,.0f} tokens/s, {training.step_seconds * 1000:,.0f} ms a step"
    yield _spark_row("how fast", speed, history.tokens_per_second, width)
    loss = f"{training.validation_loss:.3f} held out" if training.validation_loss else "not measured yet"
    if training.HasField("validation_accuracy"):
        loss += f", accuracy {training.validation_accuracy:.1%}"
    yield _spark_row("loss", f"{loss}, {training.loss:.3f} training", history.validation_loss, width)
    others = (
        f"{swarm.validation_loss:.3f} median of {count(swarm.members, 'other')}"
        if swarm.validation_loss
        else "not known"
    )
    yield _spark_row("of swarm", others, history.swarm_loss, width)
    spread = f"{swarm.spread:.4g} between members' weights" if swarm.spread else "not known"
    yield _spark_row("spread", spread, history.spread, width)
    yield _row("it helps", _verdict(sight.status))
    if training.HasField("ab"):
        yield _row("stage", ab_words(training.ab))
    waits = [
        f"{duration(seconds)} {_CAUSES.get(cause, f'for {printable(cause)}')}"
        for cause, seconds in sorted(training.blocked_seconds.items())
        if seconds >= _NOTICEABLE_S
    ]
    yield _row(
        "waited", f"{', '.join(waits) or 'never'}; exchanging took {duration(training.exchange_seconds)} of compute"
    )


def _verdict(status: Status) -> str:
    """Against the start, and against the others: a node far above them takes more than it gives."""
    training, swarm = status.training, status.swarm
    if not training.validation_loss:
        return "not known before the first look at held-out text"
    parts = []
    if training.started_loss:
        change = training.validation_loss - training.started_loss
        parts.append(f"{abs(change):.3f} {'below' if change < 0 else 'above'} where this node began")
    if swarm.validation_loss:
        distance = training.validation_loss - swarm.validation_loss
        parts.append("level with the swarm" if abs(distance) < 0.0005 else _beside(distance))
    return "; ".join(parts) or "nothing to compare with yet"


def _beside(distance: float) -> str:
    return f"{abs(distance):.3f} {'better' if distance < 0 else 'worse'} than the swarm"


def _meetings(sight: Sight, width: int) -> Iterator[Text]:
    status, history = sight.status, sight.history
    meetings = status.meetings
    yield _rule("meetings", width)
    text = f"{meetings.completed:,} completed"
    if meetings.completed:
        text += f", {meetings.mean_duration_seconds:.2f} s each"
    if meetings.last_partner:
        text += f"; last with …{meetings.last_partner[-8:]} {ago(meetings.last_meeting_ago_seconds)}"
    yield _row("with whom", text)
    failed = ", ".join(f"{number} {printable(reason)}" for reason, number in sorted(meetings.failed.items()))
    trouble = f"failed: {failed or 'none'}" + (f"; HALF: {meetings.half}" if meetings.half else "")
    yield _row("trouble", trouble, style="bold red" if meetings.half else "default")
    sent, received = (
        sum(entry.bytes for entry in meetings.bytes if entry.direction == direction)
        for direction in ("sent", "received")
    )
    yield _spark_row("bytes", f"{size(sent)} sent, {size(received)} received", differences(history.bytes_sent), width)
    yield _row(
        "given", f"{amount(status.training.tokens)} tokens, {size(sent)}, {count(meetings.completed, 'meeting')}"
    )
    line = f"line {line_words(status.line)}" if status.line.state else ""
    yield _row("reached", "; ".join(filter(None, (reach_words(status) if status.reachability else "", line))))


def _members(peers: Sequence[Peer]) -> Iterator[Text]:
    if not peers:
        yield Text("none known yet", style="dim")
        return
    yield Text(f"{'peer':<11}{'state':<11}{'over':<6}{'loss':>8}{'progress':>11}{'meetings':>10}  seen", style="dim")
    for peer in sorted(peers, key=lambda peer: (-peer.meetings, peer.peer_id)):
        loss = f"{peer.validation_loss:.3f}" if peer.validation_loss else "-"
        state = peer.state if peer.link else "no way"
        over = OVER.get(peer.last_link, "-")
        yield Text(
            f"…{printable(peer.peer_id)[-8:]:<10}{state:<11}{over:<6}{loss:>8}{peer.progress_steps:>11,.0f}"
            f"{peer.meetings:>10,}  {ago(peer.seen_ago_seconds)}"
        )


def _seconds_left(history: History, total_steps: int) -> float | None:
    """At the pace of the last looks; None where there is none."""
    steps, times = list(history.progress_steps)[-_RATE_LOOKS:], list(history.unix_seconds)[-_RATE_LOOKS:]
    if len(steps) < 2 or steps[-1] <= steps[0] or times[-1] <= times[0] or not total_steps:
        return None
    return max(0.0, total_steps - steps[-1]) * (times[-1] - times[0]) / (steps[-1] - steps[0])


def _rule(title: str, width: int) -> Text:
    return Text(f"── {title} " + "─" * max(0, width - len(title) - 4), style="dim")


def _row(label: str, value: str, style: str = "default") -> Text:
    return Text().append(f"{label:<{_LABEL}}", style="bold").append(value, style=style)


def _spark_row(label: str, value: str, series: Iterable[float], width: int) -> Text:
    """The series stands right-aligned where there is room for it."""
    line = _row(label, value)
    room = min(_SPARK, width - len(line) - 2)
    spark = sparkline(list(series), room) if room >= 4 else ""
    return line.append(f"{spark:>{width - len(line)}}", style="cyan") if spark else line
