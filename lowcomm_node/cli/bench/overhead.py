"""``bench overhead``: what being a node costs training. Swarms and bare loops on the same cores, each alone with them by turns."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table

from lowcomm_node.bench.overhead import BARE, GroupFigures, Reading, Window, figures_of, window_between
from lowcomm_node.bench.store import write_json
from lowcomm_node.bench.trial import strict
from lowcomm_node.cli.bench.bare_loops import BareLoops
from lowcomm_node.cli.bench.trial_swarm import TrialSwarm, wait
from lowcomm_node.cli.periods import periods_text
from lowcomm_node.cli.swarm.calibrate import available_cores
from lowcomm_node.cli.swarm.interrupts import Interrupts
from lowcomm_node.cli.swarm.launch import threads_per_node
from lowcomm_node.cli.swarm.lines import LineShape
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest

__all__ = ["OverheadRequest", "measure_overhead"]

_SETTLE_S = 5.0
"""After waking: clocks have gone on without the nodes, and what was due meanwhile is made up for."""
_QUICK_WINDOW_S = 3.0
_LONGEST_WINDOW_S = 25.0
"""Whoever stands still for the windows of two others keeps its record of a minute, and its daemon's patience."""
_START_PATIENCE_S = 240.0
_WARM_UP_S = 10.0
_MIB = 1 << 20
_ENDLESS_STEPS = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadRequest:
    """The command line of ``bench overhead``."""

    nodes: int = 4
    turns: int = 4
    window_s: float = 20.0
    """Of each group in each turn. In 20 s a record is renewed once, and the directory looked at twice."""
    every_steps: tuple[int, ...] = (0,)
    """Own steps between two meetings, one after the other; 0: the manifest's."""
    line: LineShape | None = None
    """A second swarm, over such lines."""
    line_words: str = ""
    is_quick: bool = False

    def check(self) -> None:
        """Raises ConfigError."""
        if not 1 <= self.nodes <= 16:
            raise ConfigError(f"--nodes {self.nodes} is not allowed; allowed: 1 to 16")
        if self.turns < 1:
            raise ConfigError(f"--turns {self.turns} is not allowed; allowed: at least 1")
        if not 1 <= self.window_s <= _LONGEST_WINDOW_S:
            raise ConfigError(f"--window {self.window_s:g} is not allowed; allowed: 1 to {_LONGEST_WINDOW_S:g} seconds")
        if not self.every_steps or min(self.every_steps) < 0:
            raise ConfigError(f"--every {self.every_steps} is not allowed; allowed: at least 1")

    def manifest(self, given: Manifest | None, every_steps: int) -> Manifest:
        """A run that does not end meanwhile."""
        manifest = given or Manifest(name="overhead")
        training = replace(manifest.training, total_steps=_ENDLESS_STEPS)
        meeting = manifest.meeting
        if every_steps:
            meeting = replace(meeting, params_every_steps=every_steps)
        return replace(manifest, training=training, meeting=meeting)


class _Group(Protocol):
    """Those that train together while all others stand still."""

    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def reading(self) -> Reading: ...
    def memory(self) -> dict[str, int]: ...
    def wait_for_training(self, patience_s: float) -> None: ...


def measure_overhead(
    request: OverheadRequest, given: Manifest | None, json_file: Path | None, console: Console
) -> None:
    """Measure, show, write down. Raises LowcommError, and KeyboardInterrupt when somebody wants an end."""
    request.check()
    with Interrupts() as interrupts:
        found = [
            _measure(request, request.manifest(given, every_steps), interrupts, console)
            for every_steps in request.every_steps
        ]
    if json_file is not None:
        write_json(json_file, strict({"nodes": request.nodes, "line": request.line_words, "runs": found}))
        console.print(f"written to {json_file}", highlight=False)


def _measure(
    request: OverheadRequest, manifest: Manifest, interrupts: Interrupts, console: Console
) -> dict[str, object]:
    """One run: what was found, as plain values."""
    threads = threads_per_node(request.nodes, available_cores())
    console.print(
        f"{request.nodes} nodes on {available_cores()} cores, {threads} thread each, {manifest.model.num_parameters:,} parameters, "
        f"{manifest.tokens_per_step:,} tokens a step; {periods_text(manifest)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="lcn-") as folder, contextlib.ExitStack() as stack:
        groups = _start(request, manifest, threads, Path(folder), interrupts=interrupts, stack=stack, console=console)
        windows = _take_turns(request, groups, interrupts, console)
        memory = {name: group.memory() for name, group in groups.items()}
    figures = [found for name in groups if (found := figures_of(windows, name, memory[name])) is not None]
    console.print(_speed_table(figures))
    console.print(_cost_table(figures, request.nodes))
    return {
        "periods": periods_text(manifest),
        "parameters": manifest.model.num_parameters,
        "tokens_per_step": manifest.tokens_per_step,
        "groups": [asdict(found) for found in figures],
        "windows": [asdict(window) for window in windows],
    }


def _start(
    request: OverheadRequest,
    manifest: Manifest,
    threads: int,
    folder: Path,
    *,
    interrupts: Interrupts,
    stack: contextlib.ExitStack,
    console: Console,
) -> dict[str, _Group]:
    """All groups, trained for a moment and frozen, one after the other."""
    groups: dict[str, _Group] = {}
    lines = {"nodes, loopback": None} | ({f"nodes, {request.line_words}": request.line} if request.line else {})
    swarms = [
        TrialSwarm(
            folder / f"swarm{index}", manifest, most=request.nodes, threads=threads, interrupts=interrupts, line=line,
            sets=("eval_every_steps=0",),
        )
        for index, line in enumerate(lines.values())
    ]  # fmt: skip
    loops = BareLoops(folder / "bare", swarms[0].workshop, request.nodes, interrupts)
    groups[BARE] = stack.enter_context(loops)
    _settle_in(BARE, loops, request, interrupts, console)
    for name, swarm in zip(lines, swarms, strict=True):
        groups[name] = stack.enter_context(swarm)
        swarm.start(request.nodes)
        _settle_in(name, swarm, request, interrupts, console)
    return groups


def _settle_in(name: str, group: _Group, request: OverheadRequest, interrupts: Interrupts, console: Console) -> None:
    console.print(f"{name}: starting", style="dim", highlight=False)
    group.wait_for_training(_START_PATIENCE_S)
    wait(interrupts, 0.0 if request.is_quick else _WARM_UP_S)
    group.freeze()


def _take_turns(
    request: OverheadRequest, groups: dict[str, _Group], interrupts: Interrupts, console: Console
) -> list[Window]:
    """Each group once in each turn, forwards and backwards by turns, so that a drift of the machine's speed meets all alike."""
    windows: list[Window] = []
    names = list(groups)
    for turn in range(request.turns):
        for name in names if turn % 2 == 0 else names[::-1]:
            group = groups[name]
            group.thaw()
            wait(interrupts, _SETTLE_S)
            before = group.reading()
            wait(interrupts, _QUICK_WINDOW_S if request.is_quick else request.window_s)
            window = window_between(name, turn, before, group.reading())
            group.freeze()
            windows.append(window)
            console.print(
                f"turn {turn + 1} of {request.turns}, {name}: {window.tokens_per_s:,.0f} tokens/s, "
                f"{window.meetings_per_min:.0f} meetings a minute, others {window.others_ms:.0f} ms a second",
                style="dim", highlight=False,
            )  # fmt: skip
    return windows


def _speed_table(figures: Sequence[GroupFigures]) -> Table:
    table = Table(title="training, bare and within nodes", title_justify="left", title_style="bold")
    for heading in (
        "",
        "tokens/s",
        "of bare",
        "std. error",
        "without emulator",
        "per trainer's second",
        "meetings/min",
        "failed/min",
        "kB/s sent",
    ):
        table.add_column(heading, justify="right" if heading else "left")
    for found in figures:
        is_bare = found.group == BARE
        without = found.ratio_without_emulator
        table.add_row(
            found.group,
            f"{found.tokens_per_s:,.0f}",
            "1" if is_bare else f"{found.ratio.middle:.4f}",
            "" if is_bare else f"{found.ratio.standard_error:.4f}",
            "" if without is None else f"{without:.4f}",
            "1" if is_bare else f"{found.per_trainer_second.middle:.4f}",
            "" if is_bare else f"{found.meetings_per_min:.0f}",
            "" if is_bare else f"{found.failed_per_min:.0f}",
            "" if is_bare else f"{found.bytes_per_s / 1e3:.1f}",
        )
    return table


def _cost_table(figures: Sequence[GroupFigures], nodes: int) -> Table:
    """Processor time and memory of one node."""
    kinds = list(dict.fromkeys(kind for found in figures for kind in found.processor_ms))
    table = Table(
        title="for each node: ms of processor time a second | MiB (proportional)",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("")
    for kind in [*kinds, "meetings in the trainer, by the clock", "others on the machine"]:
        table.add_column(kind, justify="right")
    for found in figures:
        cells = []
        for kind in kinds:
            spent_ms, held = found.processor_ms.get(kind), found.memory_bytes.get(kind)
            words = "" if spent_ms is None else f"{spent_ms / nodes:.1f}"
            cells.append(words if held is None else f"{words} | {held / _MIB:.0f}")
        exchange = "" if found.group == BARE else f"{found.exchange_ms / nodes:.1f}"
        table.add_row(found.group, *cells, exchange, f"{found.others_ms / nodes:.1f}")
    return table
