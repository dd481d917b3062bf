"""The replay command: what it says about a dump, and its exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lowcomm_node import __version__
from lowcomm_node.cli import app
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.telemetry.flight.dump import dump_text
from tests.telemetry.flight.recorded_swarm import troubled_swarm

HEADER = {"lowcomm_node": __version__, "written_at": "2026-11-26T01:00:00+00:00", "reason": "request"}


@pytest.fixture(scope="module")
def text() -> str:
    """A redacted dump of a node that has met others."""
    recorders = troubled_swarm(seed=2, max_entries=400).recorders.values()
    recording = max((recorder.recording() for recorder in recorders), key=lambda held: len(held.entries))
    return dump_text({**HEADER, "status": {"state": "training"}}, recording, names={})


@pytest.fixture
def dump(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "dump.json"
    path.write_text(text)
    return path


def tamper(path: Path) -> int:
    """Take commands away from the last event that has several; returns its number."""
    document = json.loads(path.read_text())
    entry = [entry for entry in document["entries"] if len(entry["commands"]) > 1][-1]
    entry["commands"] = entry["commands"][:1]
    path.write_text(json.dumps(document))
    number: int = entry["n"]
    return number


def test_equal(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who wrote it, how much it is, and that all is equal."""
    assert app.main(["replay", str(dump)]) == ExitCode.OK

    first, last = capsys.readouterr().out.splitlines()
    assert first == f"Written by lowcomm-node {__version__} at 2026-11-26T01:00:00+00:00 (request), state training."
    assert last.endswith("commands: all equal.")
    assert " events over " in last


def test_different(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The event, what was recorded for it and what comes out now; status 1, for scripts."""
    number = tamper(dump)

    assert app.main(["replay", str(dump)]) == ExitCode.FAILED

    out = capsys.readouterr().out
    assert f"The first difference is at event {number}, at " in out
    recorded, replayed = out[out.index("recorded:") :].split("replayed:")
    assert len(recorded.splitlines()) == 2
    assert len(replayed.strip().splitlines()) >= 2


def test_until_and_show(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The events before the difference can be looked at, one a line, commands below."""
    number = tamper(dump)

    assert app.main(["replay", str(dump), "--until", str(number - 1), "--show"]) == ExitCode.OK

    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if line[:8].strip().isdigit()]
    assert len(shown) == number - int(shown[0][:8])
    assert any(line.strip().startswith("-> ") for line in lines)
    assert any("Ticked()" in line for line in shown)


def test_another_version_is_said(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A difference may be what the newer version is for."""
    dump.write_text(dump.read_text().replace(f'"lowcomm_node": "{__version__}"', '"lowcomm_node": "9.9\\u001b"'))

    app.main(["replay", str(dump)])

    first = capsys.readouterr().out.splitlines()[0]
    assert "Written by lowcomm-node 9.9\N{REPLACEMENT CHARACTER} at" in first
    assert f"this is {__version__}" in first


def test_a_changed_memory(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When only a state differs, its attributes are named."""
    document = json.loads(dump.read_text())
    document["states"][-1]["parts"]["_schedule"]["_steps"] += 1
    dump.write_text(json.dumps(document))

    assert app.main(["replay", str(dump)]) == ExitCode.FAILED

    out = capsys.readouterr().out
    assert "the commands are equal, the core's memory before event" in out
    assert "_schedule._steps" in out


def test_a_crash_without_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The header's error is shown, with nothing that could steer a terminal."""
    path = tmp_path / "crash.json"
    path.write_text(dump_text({**HEADER, "reason": "crash", "error": ["KeyError: \x1b[2J"]}, None))

    assert app.main(["replay", str(path)]) == ExitCode.OK

    out = capsys.readouterr().out
    assert "KeyError: \N{REPLACEMENT CHARACTER}[2J" in out
    assert "had not joined its run yet" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "this is no dump of a lowcomm-node"), ("", "no JSON document"), (None, "no such file")],
)
def test_no_dump(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str) -> None:
    """One line, no traceback."""
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)

    assert app.main(["replay", str(path)]) != ExitCode.OK

    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_replay_loads_nothing_heavy(dump: Path) -> None:
    """It needs neither a node nor what a node is made of."""
    script = (
        "import sys\n"
        "from lowcomm_node.cli.app import main\n"
        "status = main(['replay', sys.argv[1]])\n"
        "heavy = [name for name in ('torch', 'hivemind', 'grpc', 'numpy', 'google.protobuf') if name in sys.modules]\n"
        "sys.exit(f'replay loaded {heavy}' if heavy else status)\n"
    )

    done = subprocess.run([sys.executable, "-c", script, str(dump)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
