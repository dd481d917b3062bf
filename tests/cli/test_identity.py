"""``lowcomm-node identity``: the same peer id every time, from a key only its owner can read."""

import json
import stat
from pathlib import Path

import pytest

from lowcomm_node.cli.app import main


def test_show_makes_the_key_once(capsys: pytest.CaptureFixture[str], own_home: Path) -> None:
    """The first call creates the key, later ones read it; both outputs agree."""
    key = own_home / "node" / "identity.key"

    assert main(["identity", "show", "--state-dir", "node"]) == 0
    first = capsys.readouterr().out.strip()
    assert main(["identity", "show", "--json", "--state-dir", "node"]) == 0
    second = json.loads(capsys.readouterr().out)

    assert second == {"peer_id": first, "key_file": str(key)}
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_two_nodes_differ(capsys: pytest.CaptureFixture[str]) -> None:
    """Each state directory has a key of its own."""
    assert main(["identity", "show", "--state-dir", "a"]) == 0
    assert main(["identity", "show", "--state-dir", "b"]) == 0

    assert len(set(capsys.readouterr().out.split())) == 2
