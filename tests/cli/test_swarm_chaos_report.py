"""Chaos in figures and sentences: nothing that went wrong is left out."""

import json
from dataclasses import replace

from rich.console import Console

from lowcomm_node.cli.swarm.calm_report import Trained, compare_with_calm
from lowcomm_node.cli.swarm.cases import Case, Pulse
from lowcomm_node.cli.swarm.chaos import Blow, Fault
from lowcomm_node.cli.swarm.chaos_report import ChaosReport, chaos_table, make_chaos_report
from lowcomm_node.cli.swarm.conductor import Ending
from lowcomm_node.cli.swarm.halves import Half
from lowcomm_node.cli.swarm.havoc import Hang
from lowcomm_node.cli.swarm.history import History
from lowcomm_node.cli.swarm.lives import Ledger
from lowcomm_node.cli.swarm.report import SwarmReport, make_report
from lowcomm_node.cli.swarm.verdict import verdict
from tests.cli.swarm_fakes import status


def _case(fault: Fault, *, seconds: float = 0.0, back: bool = True, steps: int = 95) -> Case:
    """Node n1 with 100 steps, 90 of them when it last met, is hit at 10 s."""
    before = Pulse()
    before.feel(status(steps=90, completed=1), 8.0)
    before.feel(status(steps=100, completed=1), 9.0)
    blow = Blow(fault=fault, node="n1", seconds=seconds)
    case = Case(blow=blow, subject="n1", began_s=10.0, before=before)
    case.end(10.0 + seconds)
    case.observe(status(steps=steps), 12.0 + seconds, "")
    if back:
        case.observe(status(steps=steps + 1, completed=1), 14.0 + seconds, "")
    return case


def _report(*cases: Case, halves: tuple[Half, ...] = (), hangs: tuple[Hang, ...] = ()) -> ChaosReport:
    skipped = {Fault.CUT_LINE: "no namespaces"}
    return make_chaos_report(cases, hangs=hangs, halves=halves, skipped=skipped, is_complete=True)


def _swarm_report(chaos: ChaosReport) -> SwarmReport:
    report = make_report(
        Ledger(), History(), Ending(reason="time", live=["n0"]), nodes=1, memory_peak_bytes=0, seed=0, command=[]
    )
    return replace(report, chaos=chaos)


HALF = Half(node="n1", partner="n2", meeting="abc", reason="no_verdict", explanation="")


def test_figures_are_counted_by_fault() -> None:
    """Injected, survived, steps lost by kills only."""
    report = _report(
        _case(Fault.KILL, steps=70),
        _case(Fault.KILL, steps=90),
        _case(Fault.FREEZE, seconds=5),
        _case(Fault.SLEEP, back=False),
    )

    assert report.injected == {"kill node": 2, "freeze node": 1, "sleep": 1}
    assert report.survived == {"kill node": 2, "freeze node": 1}
    assert (report.lost_steps_median, report.lost_steps_max) == (20, 30)
    assert [(blow.steps_after_s, blow.meets_after_s) for blow in report.blows] == [(4.0, 4.0)] * 3 + [(None, None)]
    assert report.broken == ["n1 (sleep at 10 s) did not take steps again"]


def test_every_broken_promise_is_a_sentence() -> None:
    """Halves without a death, hangs, and training that stopped for a disk; what is explained is no break."""
    stopped = _case(Fault.FULL_DISK, seconds=8, steps=100)
    hang = Hang(node="n3", from_s=30.0, state="training")
    report = _report(stopped, halves=(HALF, replace(HALF, explanation="death")), hangs=(hang,))

    assert report.broken == [
        "n1 (full disk at 10 s) did not go on training meanwhile",
        "the meeting abc of n1 and n2 is half (no_verdict) though neither was killed",
        "n3 took no step from 30 s on though nothing disturbed it (training)",
    ]


def test_an_interrupted_run_does_not_wait_for_anybody() -> None:
    """Who was still away when Ctrl+C came has broken nothing."""
    report = make_chaos_report([_case(Fault.SLEEP, back=False)], hangs=(), halves=(), skipped={}, is_complete=False)

    assert report.broken == []
    assert report.survived == {}


def test_the_table_names_what_was_skipped() -> None:
    """With the reason, so that nobody takes a fault that never came for one that was survived."""
    console = Console(width=140)
    with console.capture() as text:
        console.print(chaos_table(_report(_case(Fault.KILL, steps=70), _case(Fault.KILL, steps=90))))
    rows = {line.split("  ")[0].strip(): line for line in text.get().splitlines()}

    assert rows["kill node"].split()[2:4] == ["2", "2"]
    assert rows["kill node"].rstrip().endswith("20, at most 30")
    assert "skipped: no namespaces" in rows["cut line"]
    assert rows["sleep"].split() == ["sleep", "0"]


def test_the_exit_status_and_the_verdict_follow_the_promises() -> None:
    """One broken promise is enough; it is said in capitals."""
    good = _swarm_report(_report(_case(Fault.KILL)))
    bad = _swarm_report(_report(_case(Fault.KILL), halves=(HALF,)))

    assert good.has_kept_its_promises
    assert "1 of 1 faults survived; a kill cost 5 steps, at most 5" in verdict(good)
    assert not bad.has_kept_its_promises
    assert "BROKEN: the meeting abc of n1 and n2 is half" in verdict(bad)
    assert not replace(good, leftovers=["n1: processes 7"]).has_kept_its_promises
    assert not replace(good, died=1).has_kept_its_promises
    calm = Trained(nodes=2, progress_steps=10.0, tokens=100, meetings=5, losses={"n0": 2.0})
    for loss, is_kept, words in (
        (2.01, True, "losses are within the"),
        (9.0, False, "NOT within the spread (n1 is 6.980 above)"),
    ):
        compared = compare_with_calm(replace(calm, losses={"n1": loss}), calm, replace(calm, tokens=200))
        assert replace(good, calm=compared).has_kept_its_promises is is_kept
        assert words in verdict(replace(good, calm=compared))


def test_the_json_holds_every_blow_and_half() -> None:
    """Scripts read what the table sums up."""
    read = json.loads(_swarm_report(_report(_case(Fault.KILL), halves=(HALF,))).to_json())["chaos"]

    assert read["blows"][0]["fault"] == "kill node"
    assert read["halves"][0]["meeting"] == "abc"
    assert read["skipped"] == {"cut line": "no namespaces"}
