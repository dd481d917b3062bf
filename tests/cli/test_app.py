"""cli.app: finding commands, ending with the right status, and one line for each error."""

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowcomm_node import __version__
from lowcomm_node.cli import app
from lowcomm_node.cli.common import add_settings_arguments, settings_from
from lowcomm_node.cli.exit_codes import ExitCode, exit_code_of
from lowcomm_node.errors import (
    ConfigError,
    DataError,
    DirectoryError,
    LinkError,
    LowcommError,
    NoPeerError,
    RefusalReason,
    RemoteProtocolError,
    StoreError,
    TrainerError,
)

ROOT = Path(__file__).resolve().parents[2]
"""Where child processes find the package, installed or not."""

Raise = Callable[[BaseException], None]


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Raise:
    """Make the command ``status`` raise an exception, after it has read its settings."""

    def install(error: BaseException) -> None:
        def run(args: argparse.Namespace) -> int:
            settings_from(args)
            raise error

        module = SimpleNamespace(add_arguments=add_settings_arguments, run=run)
        monkeypatch.setitem(sys.modules, "lowcomm_node.cli.commands.status", module)

    return install


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("x"), 78),
        (DataError("x"), 78),
        (StoreError("x"), 73),
        (NoPeerError("x"), 69),
        (DirectoryError("x"), 75),
        (LinkError("refused", "x"), 75),
        (TrainerError("x"), 1),
        (RemoteProtocolError(RefusalReason.CHECKSUM, "x"), 1),
        (PermissionError(13, "Permission denied", "/x"), 77),
        (FileNotFoundError(2, "No such file", "/x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_exit_status(raising: Raise, error: BaseException, status: int) -> None:
    """Scripts and systemd decide by the status."""
    raising(error)

    assert app.main(["status"]) == status


def test_a_missing_permission_shows_through(raising: Raise) -> None:
    """Whatever sentence an adapter makes of it, the status says who must act: the machine's owner."""
    error = ConfigError("/srv/key cannot be read")
    error.__cause__ = PermissionError(13, "Permission denied")
    raising(error)

    assert app.main(["status"]) == ExitCode.NO_PERMISSION


def test_every_error_class_maps_to_a_failure() -> None:
    """A class that is added later cannot end with status 0."""
    for cls in LowcommError.__subclasses__():
        error = cls.__new__(cls)
        assert exit_code_of(error) in set(ExitCode) - {ExitCode.OK, ExitCode.USAGE}


def test_an_error_is_one_line(raising: Raise, capsys: pytest.CaptureFixture[str]) -> None:
    """Cause and cure on standard error, nothing on standard output, no traceback."""
    raising(NoPeerError("no peer answers at 203.0.113.5:7000; is it up, and its port open?"))

    app.main(["status"])

    assert capsys.readouterr() == ("", "error: no peer answers at 203.0.113.5:7000; is it up, and its port open?\n")


def test_what_was_noted_on_an_error_is_said_with_it(raising: Raise, capsys: pytest.CaptureFixture[str]) -> None:
    """A node that fails notes where its dump is."""
    error = TrainerError("it keeps dying")
    error.add_note("What led to this is in crash.json.")
    raising(error)

    app.main(["status"])

    assert capsys.readouterr().err == "error: it keeps dying\nWhat led to this is in crash.json.\n"


def test_an_operating_system_error_names_the_file(raising: Raise, capsys: pytest.CaptureFixture[str]) -> None:
    """Without Python's decoration."""
    raising(PermissionError(13, "Permission denied", "/srv/key"))

    app.main(["status"])

    assert capsys.readouterr().err == "error: /srv/key: permission denied\n"


@pytest.mark.parametrize(
    ("arguments", "variable", "shown"),
    [
        (["status"], None, False),
        (["--debug", "status"], None, True),
        (["status", "--debug"], None, True),
        (["status", "--set", "log.level=debug"], None, True),
        (["status"], "1", True),
        (["status"], "0", False),
    ],
)
def test_tracebacks_on_demand(
    raising: Raise,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    variable: str | None,
    shown: bool,
) -> None:
    """--debug before or after the command, LOWCOMM_DEBUG, or log level debug."""
    raising(StoreError("disk full"))
    if variable is not None:
        monkeypatch.setenv("LOWCOMM_DEBUG", variable)

    status = app.main(arguments)

    text = capsys.readouterr().err
    assert ("Traceback" in text) is shown
    assert text.endswith("error: disk full\n")
    assert status == ExitCode.CANNOT_CREATE


def test_our_own_mistakes_are_not_hidden(raising: Raise) -> None:
    """An exception nobody foresaw keeps its traceback."""
    raising(ZeroDivisionError())

    with pytest.raises(ZeroDivisionError):
        app.main(["status"])


def test_an_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """And ends with the usage status."""
    assert app.main(["swrm"]) == ExitCode.USAGE
    assert "unknown command 'swrm'; did you mean swarm?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--debgu"], "did you mean --debug?"),
        (["config", "shwo"], "did you mean show?"),
        (["config", "show", "--orgin"], "did you mean --origin?"),
        (["config", "show", "--ori"], "unrecognized arguments: --ori"),
        (["init"], "the following arguments are required: FILE"),
    ],
)
def test_a_mistyped_word_suggests_the_nearest(
    capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    """Options and actions too; options are not shortened, because that would make every prefix an interface."""
    assert app.main(arguments) == ExitCode.USAGE
    assert hint in capsys.readouterr().err


def test_no_command_prints_the_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody who types the bare name wants to know what there is; a script that does so has a mistake."""
    assert app.main([]) == ExitCode.USAGE
    assert "lowcomm-node swarm" in capsys.readouterr().out


def test_help_names_every_command_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """The table of commands is the help."""
    assert app.main(["--help"]) == ExitCode.OK

    text = capsys.readouterr().out
    for name, command in app.COMMANDS.items():
        assert command.help in text
        assert f"lowcomm-node {name} {command.example}".rstrip() in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the package and of the wire contract."""
    assert app.main(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out == f"lowcomm-node {__version__} (protocol 1)\n"


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_has_its_module_and_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of the table leads to ``add_arguments`` and ``run``."""
    module = importlib.import_module(f"lowcomm_node.cli.commands.{name}")

    assert callable(module.run)
    assert app.main([name, "--help"]) == ExitCode.OK
    assert f"example: lowcomm-node {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["nonsense"], *([name, "--help"] for name in app.COMMANDS)]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """Help, version and usage errors answer at once: what takes seconds to import waits for the command to run."""
    script = (
        "import sys\n"
        "from lowcomm_node.cli.app import main\n"
        f"main({arguments!r})\n"
        "heavy = {'torch', 'numpy', 'hivemind', 'grpc', 'google.protobuf', 'rich', 'structlog', 'matplotlib',"
        " 'prometheus_client', 'asyncio'}\n"
        "print('loaded:', sorted(heavy & sys.modules.keys()))\n"
    )

    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert result.stdout.endswith("loaded: []\n")


def test_a_reader_who_leaves_early_is_no_error() -> None:
    """``lowcomm-node config show | head`` ends without a traceback."""
    script = f"{sys.executable} -m lowcomm_node config template | true"

    result = subprocess.run(
        ["bash", "-c", f"{script}; echo ${{PIPESTATUS[0]}}"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert result.stderr == ""
    assert result.stdout in {"0\n", "1\n"}  # 0 when everything fitted into the pipe before the reader left


def test_an_error_is_an_error_in_the_journal(tmp_path: Path) -> None:
    """Where systemd says that standard error is its journal, the line carries its priority; whoever else reads it sees none."""
    for words in (["config", "check", "--set", "nonsense=1"], ["config", "chekc"]):
        said = {}
        for name in ("journal", "file"):
            path = tmp_path / name
            with path.open("wb") as stderr:
                told = {"JOURNAL_STREAM": f"{path.stat().st_dev}:{path.stat().st_ino}"} if name == "journal" else {}
                command = [sys.executable, "-m", "lowcomm_node", *words]
                subprocess.run(command, stderr=stderr, check=False, cwd=ROOT, env={**os.environ, **told}, timeout=60)
            said[name] = path.read_text()

        assert said["file"].startswith("error: ")
        assert said["journal"] == f"<3>{said['file']}"
