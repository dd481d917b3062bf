"""A swarm over shaped lines: its networks while it runs, and its report of them afterwards."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from lowcomm_node.cli.swarm.fleet import Fleet
from lowcomm_node.cli.swarm.launch import NodePlace, RoomOf
from lowcomm_node.cli.swarm.line_report import LineReport, make_line_report, read_durations
from lowcomm_node.cli.swarm.lives import Ledger
from lowcomm_node.cli.swarm.options import SwarmOptions
from lowcomm_node.cli.swarm.processes import processor_seconds
from lowcomm_node.cli.swarm.report import SwarmReport
from lowcomm_node.cli.swarm.sandbox import Sandbox
from lowcomm_node.cli.swarm.shaping import Shaping
from lowcomm_node.cli.swarm.throughput import EMULATOR
from lowcomm_node.sim.profiles import Nat

__all__ = ["local_seconds", "processor_times", "report_lines", "room_maker", "shaping_for"]


@contextlib.contextmanager
def shaping_for(options: SwarmOptions, seed: int) -> Iterator[Shaping | None]:
    """The emulated internet that the user asked for, if any; gone afterwards. Raises ShapingError."""
    if options.line is None:
        yield None
        return
    shaping = Shaping(seed=seed)
    try:
        yield shaping
    finally:
        shaping.close()


def room_maker(options: SwarmOptions, sandbox: Sandbox | None, shaping: Shaping | None) -> RoomOf | None:
    """Who makes the nodes' networks: lines before the plain ones of chaos."""
    if shaping is not None and options.line is not None:
        line, behind = options.line, range(options.nodes - options.behind_nat, options.nodes)
        return lambda name: shaping.room(line, nat=options.nat if int(name[1:]) in behind else Nat.OPEN)
    if sandbox is not None:
        return lambda name: sandbox.room(1 + int(name[1:]))
    return None


def report_lines(
    options: SwarmOptions, places: Sequence[NodePlace], shaping: Shaping, report: SwarmReport, ledger: Ledger
) -> LineReport | None:
    """To be made while the shaping still runs."""
    if options.line is None:
        return None
    behind = [place.name for place in places[: options.nodes][options.nodes - options.behind_nat :]]
    hidden = {report.per_node[name].peer_id for name in behind if name in report.per_node}
    durations: list[float] = []
    with_nat = 0
    for place in places:
        if not place.log_file.is_file():
            continue
        with place.log_file.open(encoding="utf-8", errors="replace") as log:
            for partner, seconds in read_durations(log):
                durations.append(seconds)
                with_nat += place.name in behind or partner in hidden
    return make_line_report(
        options.line,
        options.line_words,
        durations_s=durations,
        with_nat=with_nat,
        behind_nat=behind,
        reachability=ledger.reachability,
        links=ledger.meetings_by_link,
        payload_bytes=report.bytes_sent_total,
        meetings=report.meetings_completed,
        traffic=shaping.traffic(),
        emulator_cpu_s=shaping.cpu_s,
    )


def processor_times(options: SwarmOptions, fleet: Fleet, shaping: Shaping | None) -> Callable[[], Mapping[str, float]]:
    """What to ask for processor time by kind of process, where throughput is compared; the emulator is none of a node's."""
    if not options.compare_no_meetings:
        return dict

    def taken_s() -> Mapping[str, float]:
        emulator = {} if shaping is None else {EMULATOR: shaping.cpu_s}
        return processor_seconds(fleet.processes()) | emulator

    return taken_s


def local_seconds(now: datetime) -> float:
    """Seconds since midnight by the clock that quiet hours go by."""
    return now.hour * 3600 + now.minute * 60 + now.second + now.microsecond / 1e6
