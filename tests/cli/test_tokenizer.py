"""``lowcomm-node tokenizer``."""

import re
from pathlib import Path

import pytest

from lowcomm_node.cli.app import main
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.load import read_manifest


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.txt").write_text("".join(f"line {k} of text {number}\n" for k in range(50)))
    return folder


def test_what_is_printed_makes_a_manifest(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines for the manifest are accepted there; show prints them again, for the same file."""
    file = tmp_path / "own.json"

    assert main(["tokenizer", "train", "--vocab-size", "300", str(text), "-o", str(file)]) == 0
    printed = capsys.readouterr().out
    assert main(["tokenizer", "show", str(file)]) == 0
    shown = capsys.readouterr().out

    assert printed.endswith(shown)
    model_and_data = re.search(r"  \[model\].*?\n\n", shown, re.DOTALL)
    assert model_and_data is not None
    (tmp_path / "run.toml").write_text('name = "x"\n' + model_and_data[0])
    manifest = read_manifest(tmp_path / "run.toml")
    assert manifest.model.vocab_size == 300
    assert manifest.data.tokenizer in shown
    assert run_id(manifest)


def test_files_are_not_overwritten_by_accident(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only with --force; a run hangs on the very bytes."""
    file = tmp_path / "own.json"
    file.write_text("precious")
    command = ["tokenizer", "train", "--vocab-size", "260", str(text), "-o", str(file)]

    assert main(command) == ExitCode.CANNOT_CREATE
    assert "exists already" in capsys.readouterr().err
    assert file.read_text() == "precious"
    assert main([*command, "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train", "--vocab-size", "256", "text"], "allowed are 257 to 1000000"),
        (["train", "absent"], "no such file or folder"),
        (["show", "text/1.txt"], "not a tokenizer.json"),
        (["show", "absent.json"], "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(
    text: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    """In one line, and nothing is written."""
    assert main(["tokenizer", *arguments]) != 0

    assert reason in capsys.readouterr().err
    assert not Path("tokenizer.json").exists()
