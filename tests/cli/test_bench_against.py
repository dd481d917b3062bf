"""What the comparisons with others refuse before anything starts."""

import pytest

from lowcomm_node.cli.app import main
from lowcomm_node.cli.exit_codes import ExitCode


@pytest.mark.parametrize(
    "arguments",
    [
        ["field", "--nodes", "1"],
        ["field", "--diloco-every", "0"],
        ["averager", "--model", "huge"],
        ["averager", "--groups", "5"],
        ["utilisation", "--rates", "0"],
        ["utilisation", "--rates", "1000"],
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the option's name; 1000 Mbit/s alone leaves nothing to measure."""
    assert main(["bench", *arguments]) == ExitCode.CONFIG
    assert arguments[1] in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--diloco-every", "--groups"])
def test_lists_are_numbers(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = "field" if option == "--diloco-every" else "averager"
    assert main(["bench", experiment, option, "many"]) == ExitCode.USAGE
    assert "whole numbers" in capsys.readouterr().err
