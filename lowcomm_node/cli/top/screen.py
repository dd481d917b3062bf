"""The terminal as ``top`` uses it: keys without Enter, a whole screen that is put back as it was."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from lowcomm_node.cli.swarm.interrupts import Interrupts

__all__ = ["plain", "run_live"]

_LOOK_FOR_KEYS_S = 0.2
_ASCII = str.maketrans({"…": "~", "─": "-", "█": "#", "░": ".", **dict(zip("▁▂▃▄▅▆▇", "_.,-=+*", strict=True))})


def run_live(console: Console, every_s: float, paint: Callable[[], Callable[[int, int], Sequence[Text]]]) -> None:
    """Show what ``paint`` makes, anew every so often and whenever the size changes, until q or Ctrl-C.

    ``paint`` looks once and gives what draws that for a width and a height. Ctrl-C is looked at and not raised: raised inside of what
    calls back from C it would be lost.
    """
    with Interrupts() as asked, _keys() as wait, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            draw, until = paint(), time.monotonic() + every_s
            drawn_for = None
            while time.monotonic() < until:
                if drawn_for != (drawn_for := tuple(console.size)):
                    lines = [*draw(*drawn_for), Text("q quits", style="dim")]
                    live.update(Group(*(plain(console, line) for line in lines)), refresh=True)
                if wait() in ("q", "Q") or asked:
                    return


def plain(console: Console, line: Text) -> Text:
    """The line in signs that the terminal has."""
    if console.options.ascii_only:
        line.plain = line.plain.translate(_ASCII)
    line.no_wrap, line.overflow = True, "crop"
    return line


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """Gives what waits a moment for a key and returns it, empty when there is none."""
    if not sys.stdin.isatty():

        def wait() -> str:
            time.sleep(_LOOK_FOR_KEYS_S)
            return ""

        yield wait
        return

    before = termios.tcgetattr(sys.stdin)

    def read() -> str:
        ready, _, _ = select.select([sys.stdin], [], [], _LOOK_FOR_KEYS_S)
        # Past Python's own buffer, into which select cannot look.
        return os.read(sys.stdin.fileno(), 1).decode("ascii", "replace") if ready else ""

    tty.setcbreak(sys.stdin)
    try:
        yield read
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
