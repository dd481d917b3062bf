"""``lowcomm-node doctor`` as people and scripts use it, without peers."""

import json
from pathlib import Path

import pytest

from lowcomm_node.cli import app


def test_findings_are_json_and_the_status_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 without a failure, each finding with code, level and what was found."""
    assert app.main(["doctor", "--state-dir", str(tmp_path / "node"), "--json"]) == 0

    findings = json.loads(capsys.readouterr().out)
    assert {"settings", "state-dir", "identity", "disk", "ports", "data", "torch"} <= {
        entry["code"] for entry in findings
    }
    assert {entry["level"] for entry in findings} <= {"pass", "warn"}


def test_a_failure_says_its_cure_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")

    assert app.main(["doctor", "--state-dir", str(tmp_path / "file")]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "FAIL state-dir" in text
    assert "--state-dir" in text.split("→", 1)[1]


def test_a_wrong_setting_is_a_finding_too(capsys: pytest.CaptureFixture[str]) -> None:
    """The one check that can be made then."""
    assert app.main(["doctor", "--set", "network.prot=1", "--json"]) == 1

    (finding,) = json.loads(capsys.readouterr().out)
    assert (finding["code"], finding["level"]) == ("settings", "fail")
    assert "network.prot" in finding["found"]


def test_an_address_that_is_none_is_a_finding_too(capsys: pytest.CaptureFixture[str]) -> None:
    """It says what an address looks like, and everything else is looked at all the same."""
    assert app.main(["doctor", "--peers", "NONSENSE", "--json"]) == 1

    findings = {entry["code"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert findings["seeds"]["level"] == "fail"
    assert "one looks like /ip4/" in findings["seeds"]["found"]
    assert "torch" in findings
