"""``lowcomm-node bench``: from the command line to table and pictures, and no run twice."""

import json
from pathlib import Path

import pytest

from lowcomm_node.bench import checkpoints
from lowcomm_node.bench.codecs import all_cases
from lowcomm_node.bench.methods import METHODS
from lowcomm_node.cli.app import main
from lowcomm_node.cli.exit_codes import ExitCode
from tests.bench.tiny import TINY, text_in

_SHRINK = [
    f"--grid={key}={value}" for key, value in TINY.items() if key.startswith(("model.", "training.batch", "meet"))
]


def _bench(folder: Path, *arguments: str) -> int:
    data = text_in(folder)
    return main(
        [
            "bench",
            "methods",
            "--steps=4",
            "--replicas=2",
            "--data",
            *data,
            "--out",
            str(folder / "out"),
            *_SHRINK,
            *arguments,
        ]
    )


def test_list_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    """--list runs nothing."""
    assert main(["bench", "methods", "--list"]) == 0

    out = capsys.readouterr().out
    assert all(name in out for name in METHODS)
    assert not Path("runs").exists()


def test_a_comparison_leaves_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Table, numbers, three pictures, and one file for each run."""
    assert _bench(tmp_path, "--jobs=1", "--only", "ddp", "local", "--set", "meeting.dtype=fp32", "--seeds=2") == 0

    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "trials", "methods.md", "methods.json", "loss-bytes.png", "loss-tokens.png", "spread-lr.png"
    }  # fmt: skip
    assert len(list((out / "trials").iterdir())) == 6
    rows = json.loads((out / "methods.json").read_text())["rows"]
    assert [row["label"].split()[0] for row in rows] == ["ddp", "local", "meet"]
    assert rows[0]["seeds"] == [0, 1]
    assert "meet dtype=fp32" in capsys.readouterr().out


def test_what_is_there_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second call takes the results it finds and runs only what is new."""
    assert _bench(tmp_path, "--jobs=1", "--only", "local") == 0
    (stored,) = (tmp_path / "out" / "trials").iterdir()
    before = stored.stat().st_mtime_ns
    capsys.readouterr()

    assert _bench(tmp_path, "--jobs=1", "--only", "local", "ddp") == 0

    out = capsys.readouterr().out
    assert "1 result taken" in out
    assert "1/1  ddp" in out
    assert stored.stat().st_mtime_ns == before


def test_processes_find_what_one_process_finds(tmp_path: Path) -> None:
    """--jobs changes how long it takes and nothing else."""
    folders = [tmp_path / "one", tmp_path / "two"]
    losses = []
    for jobs, folder in enumerate(folders, start=1):
        folder.mkdir()
        assert _bench(folder, f"--jobs={jobs}", "--only", "local", "ddp", f"--data={text_in(tmp_path)[0]}") == 0
        rows = json.loads((folder / "out" / "methods.json").read_text())["rows"]
        losses.append([row["mean"]["loss"] for row in rows])

    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "diloko-h50"], "did you mean diloco-h50"),
        (["--jobs", "0"], "--jobs 0"),
        (["--data", "nowhere"], "nowhere: no such file"),
    ],
)
def test_errors_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the configuration status."""
    assert main(["bench", "methods", "--out", "out", *arguments]) in {78, 2}

    assert words in capsys.readouterr().err


def test_codecs_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The front on the terminal, everything in files named by optimizer and period."""
    few = all_cases()[:6]  # all of them take seconds
    monkeypatch.setattr("lowcomm_node.cli.bench.measure.all_cases", lambda: few)
    data = text_in(tmp_path)

    assert (
        main(
            [
                "bench",
                "codecs",
                "--meetings=5",
                "--every=1",
                "--burn-in=1",
                "--data",
                *data,
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )

    assert "dense fp32" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"codecs-adamw-k1.{ending}" for ending in ("md", "json", "png")
    }


def test_too_few_meetings_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    """The first ones only teach."""
    assert main(["bench", "codecs", "--meetings=2"]) == 78

    assert "--meetings 2 is not allowed" in capsys.readouterr().err


def test_what_a_checkpoint_costs_is_measured_and_nothing_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row and an entry for each size, and an empty directory."""
    monkeypatch.setattr(checkpoints, "_QUIET_S", 0.0)
    arguments = ["--mib=1,2", "--writes=2", f"--dir={tmp_path / 'disk'}", f"--json={tmp_path / 'costs.json'}"]

    assert main(["bench", "checkpoint", *arguments]) == 0

    costs = json.loads((tmp_path / "costs.json").read_text())
    assert [round(cost["state_bytes"] / 2**20) for cost in costs] == [1, 2]
    assert list((tmp_path / "disk").iterdir()) == []
    out = capsys.readouterr().out
    assert "1 MiB" in out
    assert "while written" in out


@pytest.mark.parametrize(
    ("option", "word"), [("--mib=0", "1 to"), ("--mib=a", "a list of numbers"), ("--writes=1", "2 to 1000")]
)
def test_an_impossible_measurement_is_refused(option: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With what is allowed, before anything is written."""
    assert main(["bench", "checkpoint", option]) in {ExitCode.USAGE, ExitCode.CONFIG}

    assert word in capsys.readouterr().err


def test_what_a_scrape_costs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a node without GPUs and of one with all of them; nothing trains unless that is asked for."""
    assert main(["bench", "scrape", "--scrapes=2", f"--json={tmp_path / 'costs.json'}"]) == 0

    measured = json.loads((tmp_path / "costs.json").read_text())
    assert [page["gpus"] for page in measured["pages"]] == [0, 8]
    assert measured["blocks"] == []
    assert "8 GPUs" in capsys.readouterr().out


def test_too_short_a_comparison_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """One turn is a block of each kind."""
    assert main(["bench", "scrape", "--scrapes=1", "--minutes=0.5"]) == ExitCode.CONFIG

    assert "at least 1.5" in capsys.readouterr().err
