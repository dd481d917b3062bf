"""``simulate --against``: a simulation beside the real swarm whose recordings are given."""

import math
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from lowcomm_node.bench.store import write_json
from lowcomm_node.cli.words import count, size
from lowcomm_node.settings.load import read_manifest
from lowcomm_node.sim.comparison import MIN_JUDGED, Comparison, KindFigures, compare, comparison_json, scenario_like
from lowcomm_node.sim.machine import Machine
from lowcomm_node.sim.observed import Stage
from lowcomm_node.sim.recorded import RecordedSwarm, read_recorded
from lowcomm_node.sim.report import report_json
from lowcomm_node.sim.requests import Request
from lowcomm_node.sim.scenario import Scenario

__all__ = ["show_against"]

_MANIFEST = "run.toml"


def show_against(folder: Path, scenario: Scenario, json_file: Path | None, console: Console) -> bool:
    """Simulate the swarm recorded in ``folder`` and show both; are the bytes equal? Raises LowcommError, OSError.

    Of ``scenario`` count seed, data and minutes; no minutes (0) are as many as were recorded.
    """
    recorded = read_recorded(folder)
    scenario = scenario_like(recorded, read_manifest(folder / _MANIFEST), scenario)
    console.print(_introduction(recorded), highlight=False, soft_wrap=True)
    console.print(_works_table(recorded.machine))
    report, comparison = compare(recorded, scenario)
    console.print(_kinds_table(comparison))
    console.print(_stages_table(comparison.total))
    console.print(_verdict(comparison), highlight=False, soft_wrap=True)
    if json_file is not None:
        write_json(json_file, {**report_json(report), "comparison": comparison_json(comparison)})
        console.print(f"written: {json_file}", highlight=False, soft_wrap=True)
    return comparison.has_equal_bytes


def _introduction(recorded: RecordedSwarm) -> str:
    machine = recorded.machine
    return (
        f"{count(recorded.nodes, 'real node')}, {count(len(recorded.meetings), 'completed meeting')} in "
        f"{recorded.seconds:.0f} s. What the simulator is told of their machine: how long each of "
        f"{count(len(machine.steps_s), 'own step')} took ({machine.step_s * 1e3:.1f} ms in the mean) and a trainer's own work for "
        f"each request (below), and that a message takes {machine.latency_s * 1e3:.1f} ms."
    )


def _works_table(machine: Machine) -> Table:
    table = Table(title="a trainer's own work for a request (mean)", title_justify="left", title_style="bold")
    table.add_column("kind")
    for request in Request:
        table.add_column(request.value, justify="right")
    for kind in dict.fromkeys(kind for _, kind in machine.works_s):
        works = (machine.works_s.get((request, kind)) for request in Request)
        table.add_row(kind, *(f"{1e3 * fmean(each):.1f} ms ({len(each)})" if each else "-" for each in works))
    return table


def _kinds_table(comparison: Comparison) -> Table:
    table = Table(title="meetings, real and simulated", title_justify="left", title_style="bold")
    table.add_column("kind", no_wrap=True)
    for column in ("meetings", "payload", "mean", "ratio", "median", "ratio"):
        table.add_column(column, justify="right")
    for kind in (*comparison.kinds, comparison.total):
        table.add_row(
            kind.kind,
            f"{kind.real.meetings}, {kind.simulated.meetings}",
            "" if kind is comparison.total else _bytes(kind),
            *_duration(kind.real.mean_s, kind.simulated.mean_s),
            *_duration(kind.real.median_s, kind.simulated.median_s),
        )
    return table


def _stages_table(total: KindFigures) -> Table:
    table = Table(title="where the time of a meeting goes (mean)", title_justify="left", title_style="bold")
    table.add_column("stage")
    for column in ("real", "simulated"):
        table.add_column(column, justify="right")
    for stage in Stage:
        both = (side.stages_s.get(stage.value) for side in (total.real, total.simulated))
        table.add_row(stage.value, *(f"{1e3 * each:.1f} ms" if each is not None else "-" for each in both))
    return table


def _verdict(comparison: Comparison) -> str:
    common = [kind for kind in comparison.kinds if kind.is_on_both_sides]
    others = [kind.kind for kind in comparison.kinds if not kind.is_on_both_sides]
    what = "equal" if comparison.has_equal_bytes else "different"
    total = comparison.total
    if not total.simulated.meetings:
        return "No simulated meeting was completed: give it more --minutes."
    alone = f"; on one side only: {', '.join(others)}" if others else ""
    judged = [kind.mean_ratio for kind in comparison.kinds if kind.is_judged]
    kinds = (
        f" By kind, of those with {MIN_JUDGED} real meetings or more: {min(judged):.2f} to {max(judged):.2f} times."
        if judged
        else f" No kind has {MIN_JUDGED} real meetings, which it takes to judge kinds one by one."
    )
    return (
        f"Bytes of {count(len(common), 'kind')} of meeting: {what}{alone}. "
        f"A simulated meeting takes {total.mean_ratio:.2f} times as long as a real one in the mean, "
        f"{total.median_ratio:.2f} times in the median.{kinds}"
    )


def _bytes(kind: KindFigures) -> str:
    real, simulated = (_sizes(sum(each) for each in side.payload_bytes) for side in (kind.real, kind.simulated))
    if kind.is_on_both_sides and not kind.has_equal_bytes:
        return f"{real}, {simulated}: different"
    return f"{real or simulated}{', equal' if kind.is_on_both_sides else ''}"


def _sizes(totals: Iterable[int]) -> str:
    every = sorted(set(totals))
    if len(every) < 2:
        return "".join(map(size, every))
    return f"{size(every[0])} to {size(every[-1])} ({len(every)} sizes)"


def _duration(real_s: float, simulated_s: float) -> tuple[str, str]:
    ratio = simulated_s / real_s
    real, simulated = (f"{each:.3f} s" if math.isfinite(each) else "-" for each in (real_s, simulated_s))
    return f"{real}, {simulated}", f"{ratio:.2f}" if math.isfinite(ratio) else "-"
