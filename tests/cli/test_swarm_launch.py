"""How the nodes of a swarm are set up."""

import tomllib
from pathlib import Path

from lowcomm_node.cli.swarm.launch import Workshop, verdict_keep_s
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.merge import TomlDocument, merge
from lowcomm_node.settings.node import NetworkSettings, NodeSettings


def _settings(folder: Path, *, is_patient: bool) -> NodeSettings:
    """As a node of the swarm reads them."""
    folder.mkdir()
    file = Workshop(folder, Manifest(), settings=NodeSettings(), is_patient=is_patient).config_file
    document = TomlDocument(path=str(file), table=tomllib.loads(file.read_text()))
    return merge(NodeSettings(), document, {}, [])[0]


def test_a_sleeper_has_the_times_that_nodes_have_by_default(tmp_path: Path) -> None:
    """What a long absence does is asked of a node as people run it; its log tells of each meeting all the same."""
    quick, patient = _settings(tmp_path / "quick", is_patient=False), _settings(tmp_path / "patient", is_patient=True)

    default = NetworkSettings()
    for settings in (quick, patient):
        assert settings.meeting.verdict_keep_s == verdict_keep_s(is_chaotic=False)
    assert quick.network.record_ttl_s < default.record_ttl_s
    assert (patient.network.record_ttl_s, patient.network.poll_every_s) == (default.record_ttl_s, default.poll_every_s)
    assert patient.checkpoint == NodeSettings().checkpoint
    assert (patient.log.format, patient.log.level) == ("json", "debug")
