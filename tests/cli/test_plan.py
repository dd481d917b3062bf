"""``lowcomm-node plan`` as volunteers and organisers use it."""

import json
from pathlib import Path

import pytest

from lowcomm_node.cli import app
from lowcomm_node.cli.exit_codes import ExitCode

TINY = """
name = "tiny"
[model]
num_layers = 1
num_heads = 2
d_model = 16
d_ff = 32
context_length = 16
[training]
batch_size = 4
total_steps = 864000
warmup_steps = 5
[meeting]
params_every_steps = 10
exp_avg_sq_every_steps = 0
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(TINY)
    return path


def test_what_is_given_is_reckoned_with(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One step a second: 8640 meetings started a day, and ten days; the same numbers in the table."""
    words = [
        "plan",
        str(manifest),
        "--steps-per-second",
        "1",
        "--joins-per-day",
        "0",
        "--watts",
        "50",
        "--price-per-kwh",
        "0.5",
    ]
    assert app.main([*words, "--json"]) == ExitCode.OK

    plan = json.loads(capsys.readouterr().out)
    assert plan["costs"]["usual"]["meetings_per_day"] == pytest.approx(8640)
    assert plan["costs"]["days"] == pytest.approx(10)
    assert plan["costs"]["kwh_per_day"] == pytest.approx(1.2)
    assert plan["costs"]["money_per_day"] == pytest.approx(0.6)
    (weight,) = plan["weights"]
    per_meeting = sum(sum(weight[part].values()) for part in ("payload", "framing"))
    assert plan["costs"]["usual"]["bytes_per_day"] == pytest.approx(8640 * per_meeting)
    assert plan["advice"] == []
    assert plan["pace"] is None

    assert app.main([*words, "--currency", "EUR", "--nodes", "3", "--up", "1", "--down", "2"]) == ExitCode.OK
    text = " ".join(capsys.readouterr().out.split())
    assert "meetings started 8,640 259,200" in text
    assert "money 0.60 EUR 18.00 EUR" in text
    assert "3 nodes" in text
    assert "suggestions none" in text


@pytest.mark.parametrize("method", ["average", "ab"])
def test_what_is_not_reckoned_with_is_said(manifest: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Meetings in role are whole factors, and the estimate is of ordinary meetings."""
    manifest.write_text(f'{TINY}[outer]\nmethod = "{method}"\n')
    words = ["plan", str(manifest), "--steps-per-second", "1"]

    assert app.main(words) == ExitCode.OK
    text = " ".join(capsys.readouterr().out.split())
    assert app.main([*words, "--json"]) == ExitCode.OK

    assert ("in AB-training's stretches meetings are in role" in text) is (method == "ab")
    assert json.loads(capsys.readouterr().out)["has_roles"] is (method == "ab")


def test_a_plan_leaves_nothing_behind(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It measures without a node's state directory, and says so what it has measured on."""
    text = tmp_path / "text"
    text.mkdir()
    for number in range(10):
        (text / f"{number}.txt").write_text("the number follows the number\n" * 200)
    state_dir = tmp_path / "state"
    options = ["--set", "device.name=cpu", "--set", "device.threads=1", "--state-dir", str(state_dir)]

    assert app.main(["plan", str(manifest), "--data", str(text), *options]) == ExitCode.OK

    captured = capsys.readouterr()
    assert "measuring" in captured.err
    assert "measured on cpu" in captured.out
    assert not state_dir.exists()


def test_settings_and_hours_count(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the day without training, half of the rest without the line; and a budget that is too small is told what to be."""
    settings = {
        "owner.quiet_hours": "00:00-12:00",
        "bandwidth.quiet_hours": "06:00-18:00",
        "bandwidth.monthly_gb": "0.001",
    }
    words = ["plan", str(manifest), "--steps-per-second", "1", "--joins-per-day", "0", "--json"]
    assert (
        app.main([*words, *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))])
        == ExitCode.OK
    )

    plan = json.loads(capsys.readouterr().out)
    assert (plan["around"]["training_share"], plan["around"]["open_share"]) == (0.5, 0.5)
    usual = plan["costs"]["usual"]
    assert usual["stretch"] > 1
    assert usual["bytes_per_month"] * 2 == pytest.approx(1e6)
    assert [advice["line"].split(" =")[0] for advice in plan["advice"]] == [
        "bandwidth.monthly_gb",
        "meeting.params_every_steps",
    ]


def test_errors_say_what_is_wrong(tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A manifest that is none, one for another protocol, text that is not there, an address that is none, no run at all."""
    (tmp_path / "bad.toml").write_text("[model]\nnum_layer = 3\n")
    assert app.main(["plan", str(tmp_path / "bad.toml")]) == ExitCode.CONFIG
    assert "num_layers" in capsys.readouterr().err

    (tmp_path / "new.toml").write_text("protocol_version = 99\n")
    assert app.main(["plan", str(tmp_path / "new.toml")]) == ExitCode.CONFIG
    assert "99" in capsys.readouterr().err

    assert app.main(["plan", str(manifest), "--data", str(tmp_path / "none")]) == ExitCode.CONFIG
    assert "--steps-per-second" in capsys.readouterr().err

    assert app.main(["plan", "--peers", "NONSENSE"]) == ExitCode.CONFIG
    assert "one looks like /ip4/" in capsys.readouterr().err

    assert app.main(["plan"]) == ExitCode.USAGE
    assert app.main(["plan", str(manifest), "--watts", "-3"]) == ExitCode.USAGE
    assert app.main(["plan", str(manifest), "--hours-per-day", "25"]) == ExitCode.USAGE
    assert "a day has 24" in capsys.readouterr().err
