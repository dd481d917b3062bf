"""A run that asks for invitations, with real processes: who has one takes part, who has none is told how to get one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.real_nodes import TINY_MANIFEST, RealNode

pytestmark = pytest.mark.system


def printed(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lowcomm_node", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def rejected(node: RealNode, reason: str) -> float:
    """Messages that the node has refused for this reason."""
    port = next(line for line in node.log.read_text().splitlines() if "http_listening" in line).split('"port": ')[1]
    metrics = node.get(f"http://127.0.0.1:{int(port.split(',')[0].strip('} '))}/metrics")
    line = next(line for line in metrics.splitlines() if f'messages_rejected_total{{reason="{reason}"}}' in line)
    return float(line.rsplit(" ", 1)[1])


@pytest.mark.timeout(240)
def test_an_invitation_lets_a_node_in(tmp_path: Path) -> None:
    """Without one it ends at once and names the cure; with one it gets the state and meets, and has the model exported."""
    organiser = printed("identity", "show", "--state-dir", str(tmp_path / "org"))
    manifest = tmp_path / "run.toml"
    manifest.write_text(f'{TINY_MANIFEST}\n[security]\nadmission = "invite"\norganiser = "{organiser}"\n')
    text = tmp_path / "text"
    text.mkdir()
    for index in range(40):
        (text / f"{index}.txt").write_text(f"the quick brown fox {index} jumps over the lazy dog\n" * 60)
    invitation = tmp_path / "invitation"
    invitation.write_text(
        printed("invite", "create", "--manifest", str(manifest), "--state-dir", str(tmp_path / "org"))
    )
    org = RealNode(tmp_path / "org", "--manifest", str(manifest), text=text)
    nodes = [org]
    try:
        status = org.wait_for(lambda s: s["state"] == "training", 60, "the organiser's node trains")
        peers = ("--peers", status["join_address"])

        stranger = RealNode(tmp_path / "stranger", *peers, text=text)
        nodes.append(stranger)
        assert stranger.process.wait(60) == 78
        assert f"ask its organiser, {organiser}, for an invitation" in stranger.tail()

        guest = RealNode(tmp_path / "guest", *peers, "--invite", str(invitation), text=text)
        nodes.append(guest)
        guest.wait_for(lambda s: s["meetings"]["completed"] >= 3, 90, "the guest meets")
        model = tmp_path / "model"
        asked = ("export", str(model), "--no-eval", "--members", "2", "--state-dir")
        assert "the mean of 2 nodes" in printed(*asked, str(tmp_path / "guest"))  # as the guest, whose node goes on
        assert rejected(org, "not_admitted") == rejected(org, "unproven") == 0
        assert guest.end() == org.end() == 0
    finally:
        for node in nodes:
            node.clean_up()
