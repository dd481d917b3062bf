"""The report of a swarm: its keys, its JSON, its words."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lowcomm_node.cli.swarm.conductor import Ending
from lowcomm_node.cli.swarm.fleet import Incident, IncidentKind
from lowcomm_node.cli.swarm.history import History, NodePoint, SwarmPoint
from lowcomm_node.cli.swarm.lives import Ledger
from lowcomm_node.cli.swarm.plot import plot_swarm
from lowcomm_node.cli.swarm.report import SwarmReport, make_report, write_report
from lowcomm_node.cli.swarm.verdict import report_table, verdict
from lowcomm_node.errors import StoreError
from tests.cli.swarm_fakes import status

KEYS = frozenset(
    [
        "nodes",
        "seconds",
        "steps_total",
        "tokens_total",
        "val_loss_start",
        "val_loss_end",
        "val_loss_consensus",
        "val_loss_local_only",
        "spread_start",
        "spread_end",
        "meetings_completed",
        "meetings_failed",
        "meetings_half",
        "bytes_sent",
        "ddp_bytes_equivalent",
        "blocked_seconds",
        "tokens_per_second",
        "killed",
        "joined_late",
    ]
)


def _history() -> History:
    history = History()
    for second, spread in enumerate((math.nan, 0.0, 0.02, 0.05, 0.03)):
        point = SwarmPoint(
            time_s=second,
            loss=5.0 - second,
            validation_loss=math.nan if second < 2 else 5.0 - second,
            spread=spread,
            bytes_sent=1000.0 * second,
            ddp_bytes=90000.0 * second,
            meetings=second,
            tokens=10 * second,
        )
        nodes = {n: NodePoint(time_s=second, loss=5.1 - second, validation_loss=math.nan) for n in ("n0", "n1")}
        history.add(point, nodes)
    history.mark(2.0, "killed", "n1")
    history.mark(3.0, "joined late", "n2")
    return history


def _report() -> SwarmReport:
    ledger = Ledger()
    for name, sent in (("n0", 300), ("n1", 100)):
        ledger.begin(name, 0.0)
        ledger.observe(name, status(steps=5, completed=4), 1.0)
        ledger.observe(name, status(steps=20, completed=4, sent={("params", "ab"): sent}, peer_id=f"id-{name}"), 4.0)
    ledger.end("n1", "killed")
    ending = Ending(reason="time", seconds=4.0, live=["n0"], progress_steps=20.0)
    return make_report(
        ledger, _history(), ending, nodes=2, memory_peak_bytes=1 << 20, seed=7, command=["lowcomm-node", "swarm"]
    )


def test_the_json_has_every_key_that_was_promised() -> None:
    """The names are an interface: scripts and the next issues read them."""
    read = json.loads(_report().to_json())

    assert KEYS - read.keys() == set()
    assert read["nodes"] == 2
    assert read["killed"] == 1
    assert read["steps_total"] == 40
    assert read["tokens_total"] == 400
    assert read["meetings_completed"] == 4
    assert read["bytes_sent"] == {"params": {"ab": 400}}
    assert read["ddp_bytes_equivalent"] == 2 * 0.5 * 1000 * 4 * 40
    assert read["blocked_seconds"] == {"meeting": 0.0}
    assert read["tokens_per_second"] == {"n0": pytest.approx(50.0), "n1": pytest.approx(50.0)}
    assert read["seed"] == 7
    assert read["per_node"]["n1"] == {
        "peer_id": "id-n1",
        "is_live": False,
        "lives": 1,
        "steps": 20,
        "tokens": 200,
        "val_loss_end": None,
        "val_loss_local_only": None,
    }


def test_what_was_not_measured_is_null() -> None:
    """No loss is invented, and NaN, which JSON has not, does not get in."""
    report = replace(_report(), val_loss_end=math.nan, spread_end=math.inf)
    read = json.loads(report.to_json())

    assert read["val_loss_start"] is None
    assert read["val_loss_local_only"] is None
    assert read["val_loss_end"] is None
    assert read["spread_end"] is None


def test_the_spread_at_the_start_is_the_first_that_is_one() -> None:
    """Equal sketches before the first own step are no measurement of a distance."""
    report = _report()

    assert report.spread_start == 0.02
    assert report.spread_max == 0.05


def test_leftovers_and_deaths_are_told_apart() -> None:
    """What had to be removed is listed; who died unasked comes with exit code and log."""
    ledger = Ledger()
    ledger.begin("n0", 0.0)
    ledger.end("n0", "died")
    ending = Ending(reason="nobody left")
    ending.incidents = [
        Incident(kind=IncidentKind.LEFTOVER, node="n1", detail="processes 7 (p2pd)"),
        Incident(kind=IncidentKind.DIED, node="n0", exit_code=-6, log=("last words",)),
    ]
    report = make_report(ledger, History(), ending, nodes=1, memory_peak_bytes=0, seed=0, command=[])

    assert report.leftovers == ["n1: processes 7 (p2pd)"]
    assert report.died == 1
    assert [(i["node"], i["exit_code"], i["log"]) for i in report.incidents] == [("n0", -6, ("last words",))]
    assert "1 nodes did NOT end in order" in verdict(report)
    assert "no node was LEFT" in verdict(report)


def test_the_verdict_does_not_flatter() -> None:
    """Each promise is stated as kept or as broken, by the figures."""
    good = replace(
        _report(), val_loss_start=5.0, val_loss_end=2.0, val_loss_local_only=2.2, val_loss_consensus=1.9, nodes_live=2
    )
    bad = replace(
        good,
        val_loss_end=4.95,
        val_loss_local_only=4.0,
        val_loss_consensus=4.97,
        meetings_half=3,
        blocked_seconds={"meeting": 1.5},
    )

    assert verdict(good) == (
        "Validation loss fell from 5.000 to 2.000; that is below the 2.200 of the same nodes training alone; "
        "the averaged model (1.900) is at least as good as the mean of the nodes; "
        "0 half meetings of 4; training never waited for a meeting."
    )
    assert "did NOT fall clearly" in verdict(bad)
    assert "NOT below the 4.000" in verdict(bad)
    assert "WORSE than" in verdict(bad)
    assert "3 half meetings" in verdict(bad)
    assert "WAITED 1.50 s" in verdict(bad)


def test_the_verdict_of_an_interrupted_run_claims_nothing() -> None:
    """Without judged states there is no last loss."""
    assert verdict(replace(_report(), ended_by="interrupted")).startswith(
        "The run was interrupted, so nothing is known"
    )


@pytest.mark.parametrize("sent", [{}, {"params": {"ab": 400}, "exp_avg_sq": {"rank1": 5}}])
def test_the_table_shows_any_report(sent: dict[str, dict[str, int]]) -> None:
    """Also one of a run in which nothing was sent and no time passed."""
    console = Console(width=200, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115 - closed with the console
    with console.file:
        console.print(report_table(replace(_report(), bytes_sent=sent, seconds=0.0)))
    text = console.export_text()

    assert "meetings half" in text
    assert ("sent, params ab" in text) == bool(sent)


def test_the_report_is_written_into_a_new_folder(tmp_path: Path) -> None:
    """And a path that cannot be written is named."""
    write_report(_report(), tmp_path / "new" / "report.json")

    assert json.loads((tmp_path / "new" / "report.json").read_text())["nodes"] == 2
    with pytest.raises(StoreError, match="report cannot be written"):
        write_report(_report(), tmp_path / "new")


@pytest.mark.parametrize("history", [_history(), History()], ids=["run", "nothing"])
def test_the_plot_is_a_png(history: History, tmp_path: Path) -> None:
    """Also for a run that ended before anything was seen."""
    report = replace(_report(), val_loss_local_only=2.2, val_loss_consensus=1.9, spread_end=0.02)
    plot_swarm(history, report, tmp_path / "plots" / "swarm.png")

    assert (tmp_path / "plots" / "swarm.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_long_history_stays_small() -> None:
    """Ten thousand moments leave at most 1200, evenly over the whole time."""
    history = History()
    for second in range(10_000):
        point = SwarmPoint(
            time_s=second, loss=1, validation_loss=1, spread=0, bytes_sent=0, ddp_bytes=0, meetings=0, tokens=0
        )
        history.add(point, {"n0": NodePoint(time_s=second, loss=1, validation_loss=1)})

    assert 500 <= len(history.swarm) <= 1200
    assert len(history.nodes["n0"]) <= 1200
    assert history.swarm[0].time_s < 20
    assert history.swarm[-1].time_s > 9980
