"""Ranges of protocol versions."""

from lowcomm_node.core.versions import SPOKEN, Versions
from lowcomm_node.settings.manifest import Manifest


def test_a_range_says_what_to_do() -> None:
    """Both versions are named, and whoever is behind is told to update."""
    spoken = Versions(oldest=2, newest=4)

    assert [version in spoken for version in (1, 2, 4, 5)] == [False, True, True, False]
    assert spoken.advice(5) == "the run speaks protocol 5, this lowcomm-node speaks 2 to 4: update lowcomm-node"
    assert spoken.advice(1, "yours") == (
        "the run speaks protocol 1, yours speaks 2 to 4: install an older lowcomm-node, one that speaks protocol 1"
    )


def test_new_runs_can_be_joined() -> None:
    """What a manifest has by default is spoken here."""
    assert Manifest().protocol_version in SPOKEN
