"""``lowcomm-node simulate``."""

import json
from pathlib import Path

import pytest

from lowcomm_node.cli.app import main
from lowcomm_node.cli.exit_codes import ExitCode


def test_a_run_is_shown_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, JSON for programs, a picture for both."""
    report = tmp_path / "report.json"
    words = ["--nodes", "12", "--minutes", "1", "--network", "datacentre", "--churn", "0.5", "--hostile", "0.2"]

    status = main(["simulate", *words, "--json", str(report), "--plot", str(tmp_path)])

    shown = capsys.readouterr().out
    found = json.loads(report.read_text())
    assert status == 0
    assert "completed" in shown
    assert "consensus error" in shown
    assert found["scenario"]["nodes"] == 12
    assert found["meetings"]["completed"] > 0
    assert len(found["timeline"]) == 60
    assert (tmp_path / "run-12.png").stat().st_size > 10_000


def test_a_sweep_tells_what_a_node_pays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each size, and a picture over all of them."""
    status = main(
        ["simulate", "--sweep-nodes", "4,8", "--minutes", "0.5", "--network", "datacentre", "--plot", str(tmp_path)]
    )

    assert status == 0
    assert "what a node pays" in capsys.readouterr().out
    assert (tmp_path / "sweep.png").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--nodes", "1"], "--nodes 1 is not allowed; allowed: 2 to 100000"),
        (["--partition", "0.3"], "write it as SHARE@FROM-UNTIL"),
        (["--sweep-nodes", "few"], "--sweep-nodes few"),
        (["--set", "meeting.codek=ab"], "did you mean meeting.codec"),
        (["--trace", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--against", "nowhere"], "nowhere: no recordings of two or more nodes"),
    ],
)
def test_mistakes_are_told_in_one_line(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the option, before anything is loaded."""
    assert main(["simulate", *words]) != 0
    assert sentence in capsys.readouterr().err


def test_a_wrong_word_is_answered_with_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """As they are typed, not as the code calls them."""
    assert main(["simulate", "--attack", "foo"]) == ExitCode.USAGE
    assert "'sign-flip'" in capsys.readouterr().err
