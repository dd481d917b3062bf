"""Shows a swarm while it runs: a live table on a terminal, a plain line every ten seconds elsewhere."""

import math
import time
from types import TracebackType
from typing import Protocol, Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lowcomm_node.cli.swarm.picture import NodeRow, Picture

__all__ = ["LiveView", "PlainView", "View", "format_bytes", "format_seconds", "view_for"]

_PLAIN_EVERY_S = 10.0
_STATE_STYLES = {
    "training": "green",
    "finished": "bold green",
    "killed": "bold red",
    "ended": "red",
    "failed": "bold red",
    "draining": "yellow",
    "paused": "yellow",
}


class View(Protocol):
    """Where a swarm shows itself."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def show(self, picture: Picture) -> None:
        """The swarm as it is now."""
        ...

    def work(self, what: str, share_done: float) -> None:
        """How far a piece of work before or after the training is, 0 to 1."""
        ...


def view_for(console: Console) -> View:
    """The view that suits the console."""
    return LiveView(console) if console.is_terminal else PlainView(console)


class LiveView:
    """A table that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._timer = _Timer()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(Text(""), refresh=True)
        self._live.stop()

    def say(self, text: str) -> None:
        self._live.console.print(Text(text))

    def show(self, picture: Picture) -> None:
        self._live.update(
            Group(_table(picture), _swarm_lines(picture), _bar("training", picture.share_done, picture.left_s)),
            refresh=True,
        )

    def work(self, what: str, share_done: float) -> None:
        self._live.update(_bar(what, share_done, self._timer.left_s(what, share_done)), refresh=True)


class PlainView:
    """Lines for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._timer = _Timer()
        self._next_s = 0.0
        self._what = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def say(self, text: str) -> None:
        self._print(text)

    def show(self, picture: Picture) -> None:
        if self._is_time("training"):
            self._print(plain_line(picture))

    def work(self, what: str, share_done: float) -> None:
        left_s = self._timer.left_s(what, share_done)
        if self._is_time(what):
            left = "" if left_s is None else f", {format_seconds(left_s)} left"
            self._print(f"{what}: {share_done:.0%}{left}")

    def _is_time(self, what: str) -> bool:
        now_s = time.monotonic()
        if what == self._what and now_s < self._next_s:
            return False
        self._what, self._next_s = what, now_s + _PLAIN_EVERY_S
        return True

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
        self._console.file.flush()


class _Timer:
    """Time left of a piece of work, from the pace so far."""

    def __init__(self) -> None:
        self._what = ""
        self._from_s = 0.0

    def left_s(self, what: str, share_done: float) -> float | None:
        now_s = time.monotonic()
        if what != self._what:
            self._what, self._from_s = what, now_s
        if share_done <= 0:
            return None
        return (now_s - self._from_s) * (1 - share_done) / share_done


def plain_line(picture: Picture) -> str:
    """The swarm in one line."""
    states = ", ".join(f"{row.name} {row.state} {row.steps}" for row in picture.nodes)
    left = "" if picture.left_s is None else f", {format_seconds(picture.left_s)} left"
    return (
        f"{format_seconds(picture.elapsed_s)} ({picture.share_done:.0%}{left})"
        f"  progress {picture.progress_steps:.0f}/{picture.total_steps}"
        f"  loss {_number(picture.loss)}  validation {_number(picture.validation_loss)}"
        f"  spread {_number(picture.spread)}  meetings {picture.meetings} ({picture.meetings_per_minute:.0f}/min)"
        f"  {picture.bytes_per_token:.1f} B/token (DDP {picture.ddp_bytes_per_token:.0f})  [{states}]"
    )


def _table(picture: Picture) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("node")
    table.add_column("state")
    for heading in ("steps", "loss", "validation", "tokens/s", "meetings"):
        table.add_column(heading, justify="right")
    table.add_column("last with")
    table.add_column("sent", justify="right")
    table.add_column("")
    for row in picture.nodes:
        table.add_row(
            row.name,
            Text(row.state, style=_STATE_STYLES.get(row.state, "cyan")),
            f"{row.steps:,}",
            _number(row.loss),
            _number(row.validation_loss),
            f"{row.tokens_per_second:,.0f}",
            f"{row.meetings:,}",
            _partner(row),
            format_bytes(row.bytes_sent),
            Text(row.note, style="dim"),
        )
    return table


def _partner(row: NodeRow) -> str:
    if not row.partner or row.meeting_ago_s < 0:
        return "-"
    return f"{row.partner}, {row.meeting_ago_s:.0f} s ago"


def _swarm_lines(picture: Picture) -> Text:
    factor = picture.ddp_bytes_per_token / picture.bytes_per_token if picture.bytes_per_token > 0 else math.nan
    less = "" if math.isnan(factor) else f" = {factor:.0f} times less"
    return Text(
        f"swarm   validation loss {_number(picture.validation_loss)}   spread {_number(picture.spread)}   "
        f"{picture.tokens_per_second:,.0f} tokens/s   {format_bytes(picture.memory_bytes)} of memory\n"
        f"        {picture.meetings:,} meetings, {picture.meetings_per_minute:.0f} a minute   "
        f"{picture.bytes_per_token:.1f} bytes a token against {picture.ddp_bytes_per_token:.0f} of DDP{less}\n"
        f"        progress {picture.progress_steps:.0f} of {picture.total_steps} steps   "
        f"{picture.killed} killed, {picture.joined_late} joined late\n"
    )


def _bar(what: str, share_done: float, left_s: float | None) -> Table:
    grid = Table.grid(padding=(0, 1))
    left = "" if left_s is None else f"{format_seconds(left_s)} left"
    grid.add_row(what, ProgressBar(total=1.0, completed=share_done, width=40), f"{share_done:.0%}", left)
    return grid


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def format_seconds(seconds: float) -> str:
    """``1:05`` or ``2:03:09``."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def format_bytes(count: float) -> str:
    """With a binary prefix, e.g. ``3.4 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
