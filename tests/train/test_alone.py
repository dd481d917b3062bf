"""The baseline without meetings."""

from pathlib import Path

import torch

from lowcomm_node.train.alone import train_alone
from lowcomm_node.train.messages import Report
from lowcomm_node.train.state_file import read_state
from lowcomm_node.units import PeerId
from tests.train.pairs import RUN, tiny_manifest, tiny_session, tiny_settings, train, write_text


def test_alone_is_the_swarm_node_without_meetings(tmp_path: Path) -> None:
    """Same manifest, peer id and steps: the weights are those of a node that met nobody."""
    settings, path = tiny_settings(write_text(tmp_path)), tmp_path / "state"
    node = tiny_session(tiny_manifest(), "peer")

    report = train_alone(tiny_manifest(), settings, RUN, PeerId("peer"), steps=20, state_path=path)
    train(node, 20)

    replica = node.replica
    state = read_state(path, RUN, replica.layout())
    assert all(torch.equal(state.tensors[f"params/{n}"], t) for n, t in zip(replica.names, replica.theta, strict=True))
    assert (report.steps, report.progress_steps) == (20, 20.0)
    assert 0 < report.validation_loss < 5.6


def test_alone_can_be_ended_early(tmp_path: Path) -> None:
    """The caller's False ends training at once, and the state reached is written all the same."""
    settings, path = tiny_settings(write_text(tmp_path)), tmp_path / "state"
    seen: list[Report] = []

    def end(report: Report) -> bool:
        seen.append(report)
        return False

    report = train_alone(tiny_manifest(), settings, RUN, PeerId("p"), steps=10**6, state_path=path, on_report=end)

    assert len(seen) == 1
    assert report.steps == seen[0].steps
    assert path.exists()
