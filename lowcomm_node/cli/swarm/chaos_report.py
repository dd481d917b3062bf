"""What chaos did to a swarm, in figures; and which promises were broken, in sentences."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.table import Table

from lowcomm_node.cli.swarm.cases import Case
from lowcomm_node.cli.swarm.chaos import Fault
from lowcomm_node.cli.swarm.halves import Half
from lowcomm_node.cli.swarm.havoc import Hang

__all__ = ["BlowReport", "ChaosReport", "chaos_table", "make_chaos_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlowReport:
    """One fault. Times are seconds, ``at_s`` since the first node's first step, the others since the fault was over."""

    fault: str
    node: str
    other: str
    """The second node of a cut pair."""
    at_s: float
    lasted_s: float | None
    """Until all was thawed, mended or started again; null when the run ended first."""
    steps_after_s: float | None
    """Until a step was seen; of ``end first``: of another node."""
    meets_after_s: float | None
    """Until a meeting was complete."""
    trained_through: bool | None
    """Training went on meanwhile; null where it need not, or where that was too short to tell."""
    lost_steps: int | None
    """Own steps whose work nobody has; null for faults that kill no trainer."""
    came_back_with: str
    has_survived: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosReport:
    """All faults of a run and what came of them."""

    injected: dict[str, int]
    """By fault."""
    survived: dict[str, int]
    """By fault: took steps and met again."""
    skipped: dict[str, str]
    """Faults that are not possible here -> why."""
    lost_steps_median: float | None
    """Own steps lost by a killed trainer."""
    lost_steps_max: int | None
    halves: list[Half]
    """Each with its explanation; without one a promise is broken."""
    hangs: list[Hang]
    broken: list[str]
    """Broken promises, in sentences; empty is right."""
    blows: list[BlowReport] = field(default_factory=list)


def make_chaos_report(
    cases: Sequence[Case],
    *,
    hangs: Sequence[Hang],
    halves: Sequence[Half],
    skipped: Mapping[Fault, str],
    is_complete: bool,
) -> ChaosReport:
    """``is_complete``: the run went to its end, so that who had not come back by then will not."""
    blows = [_blow_report(case) for case in cases]
    lost = [blow.lost_steps for blow in blows if blow.lost_steps is not None]
    return ChaosReport(
        injected=_count(blow.fault for blow in blows),
        survived=_count(blow.fault for blow in blows if blow.has_survived),
        skipped={fault.value: why for fault, why in skipped.items()},
        lost_steps_median=statistics.median(lost) if lost else None,
        lost_steps_max=max(lost, default=None),
        halves=list(halves),
        hangs=list(hangs),
        broken=[*_broken(blows if is_complete else (), halves), *map(_hang_sentence, hangs)],
        blows=blows,
    )


def chaos_table(report: ChaosReport, kinds: Sequence[Fault] = tuple(Fault)) -> Table:
    """A row for each kind of fault that was asked for."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("fault")
    for heading in ("injected", "survived", "lasted", "steps after", "meets after", "steps lost"):
        table.add_column(heading, justify="right")
    for fault in kinds:
        blows = [blow for blow in report.blows if blow.fault == fault]
        if not blows:
            why = report.skipped.get(fault)
            table.add_row(fault, "-" if why else "0", *[""] * 4, f"skipped: {why}" if why else "")
            continue
        table.add_row(
            fault,
            str(len(blows)),
            str(report.survived.get(fault, 0)),
            _range([blow.lasted_s for blow in blows], " s"),
            _range([blow.steps_after_s for blow in blows], " s"),
            _range([blow.meets_after_s for blow in blows], " s"),
            _range([blow.lost_steps for blow in blows], ""),
        )
    return table


def _blow_report(case: Case) -> BlowReport:
    def after(moment_s: float | None) -> float | None:
        return None if moment_s is None or case.ended_s is None else round(moment_s - case.ended_s, 1)

    return BlowReport(
        fault=case.blow.fault.value,
        node=case.blow.node,
        other=case.blow.other,
        at_s=round(case.began_s, 1),
        lasted_s=None if case.ended_s is None else round(case.ended_s - case.began_s, 1),
        steps_after_s=after(case.trained_s),
        meets_after_s=after(case.met_s),
        trained_through=case.trained_through,
        lost_steps=case.lost_steps,
        came_back_with=case.came_back_with,
        has_survived=not case.is_open,
    )


def _broken(blows: Iterable[BlowReport], halves: Sequence[Half]) -> list[str]:
    sentences = []
    for blow in blows:
        what = f"{blow.node} ({blow.fault} at {blow.at_s:.0f} s)"
        if not blow.has_survived:
            missing = "take steps" if blow.steps_after_s is None else "meet anybody"
            sentences.append(f"{what} did not {missing} again")
        if blow.trained_through is False:
            sentences.append(f"{what} did not go on training meanwhile")
    sentences += [
        f"the meeting {half.meeting} of {half.node} and {half.partner} is half ({half.reason}) though neither was killed"
        for half in halves
        if not half.explanation
    ]
    return sentences


def _hang_sentence(hang: Hang) -> str:
    return f"{hang.node} took no step from {hang.from_s:.0f} s on though nothing disturbed it ({hang.state or 'no answer'})"


def _count(faults: Iterable[str]) -> dict[str, int]:
    names = list(faults)
    return {fault.value: names.count(fault) for fault in Fault if fault in names}


def _range(values: Iterable[float | None], unit: str) -> str:
    """Median, and the largest where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    median = f"{statistics.median(known):.0f}{unit}"
    return median if len(known) == 1 else f"{median}, at most {max(known):.0f}{unit}"
