"""``bench link``: two real processes, every kind of connection, and nothing left of them."""

import json
from pathlib import Path

import psutil
import pytest

from lowcomm_node.cli.app import main
from lowcomm_node.cli.exit_codes import ExitCode


@pytest.mark.system
def test_every_kind_of_connection_is_measured_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table and JSON with the same kinds; a cap each way with control beside it; no process stays."""
    report = tmp_path / "link.json"
    others = psutil.Process().children()  # of tests before this one

    status = main(
        ["bench", "link", "--mb", "2", "--rounds", "1", "--meetings", "2", "--cap-mbit", "8", "--json", str(report)]
    )

    out = capsys.readouterr().out
    assert status == 0, out
    figures = json.loads(report.read_text())
    assert [row["carrier"] for row in figures["meetings"]] == ["tcp", "grpc-plain", "grpc", "libp2p"]
    assert all(row["failed"] == 0 and row["first_s"] > 0 and row["later_s"] > 0 for row in figures["meetings"])
    capped = [(row["carrier"], row["direction"]) for row in figures["caps"]]
    assert capped == [("grpc", "up"), ("grpc", "down"), ("libp2p", "up"), ("libp2p", "down")]
    assert all(row["rate_mbit"] > 0 and row["probes"] > 0 for row in figures["caps"])
    assert psutil.Process().children() == others


@pytest.mark.parametrize(
    "arguments",
    [["--mb", "0"], ["--meetings", "1"], ["--cap-mbit", "0.1"], ["--carriers", "pigeons"], ["--line", "slow"]],
)
def test_what_cannot_work_is_said_before_anything_starts(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "link", *arguments]) == ExitCode.CONFIG
    assert arguments[0] in capsys.readouterr().err
