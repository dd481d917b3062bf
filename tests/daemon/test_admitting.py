"""How a node gets into its run."""

import time
from pathlib import Path

import pytest

from lowcomm_node.adapters.admission_file import AdmissionFile
from lowcomm_node.adapters.identity import Identity, load_or_create
from lowcomm_node.daemon.admitting import own_admission
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import SecurityConfig
from lowcomm_node.units import RunId
from lowcomm_node.wire.admission import AdmissionRule, Invitation

RUN = RunId("ab" * 32)


@pytest.fixture
def organiser(tmp_path: Path) -> Identity:
    return load_or_create(tmp_path / "organiser.key")


@pytest.fixture
def own(tmp_path: Path) -> Identity:
    return load_or_create(tmp_path / "own.key")


def rule(organiser: Identity, run_id: RunId = RUN) -> AdmissionRule:
    return AdmissionRule.of(SecurityConfig(admission="invite", organiser=organiser.peer_id), run_id)


def written(organiser: Identity, run_id: RunId = RUN, valid_s: int = 60) -> str:
    until = int(time.time()) + valid_s
    return Invitation.make(run_id, until, organiser.sign, peer=None, secret=bytes(32)).text()


def test_an_invitation_is_needed_once(tmp_path: Path, organiser: Identity, own: Identity) -> None:
    """Its next lives come in without, and the invitation itself stays nowhere."""
    file = AdmissionFile(tmp_path)

    admission = own_admission(rule(organiser), own.peer_id, written(organiser), file)

    assert admission
    assert own_admission(rule(organiser), own.peer_id, "", AdmissionFile(tmp_path)) == admission
    assert "lowcomm-invite" not in (tmp_path / "admission.json").read_text()
    assert file.load(RunId("cd" * 32)) == b""


def test_without_one_the_cure_is_named(tmp_path: Path, organiser: Identity, own: Identity) -> None:
    """Who gives invitations, to whom, and where to put them."""
    with pytest.raises(ConfigError, match=rf"{own.peer_id} has no invitation.*{organiser.peer_id}.*--invite"):
        own_admission(rule(organiser), own.peer_id, "", AdmissionFile(tmp_path))


def test_one_that_does_not_fit_is_refused_with_the_reason(tmp_path: Path, organiser: Identity, own: Identity) -> None:
    """Another run's, one that has ended, one of somebody who is not the organiser."""
    file = AdmissionFile(tmp_path)
    for invite, words in (
        (written(organiser, RunId("cd" * 32)), "for run cdcdcdcdcdcd"),
        (written(organiser, valid_s=-5), "has ended"),
        (written(own), "not one of the run's organiser"),
        ("lowcomm-invite-x", "no invitation"),
    ):
        with pytest.raises(ConfigError, match=words):
            own_admission(rule(organiser), own.peer_id, invite, file)
    assert not (tmp_path / "admission.json").exists()


def test_who_needs_none_is_not_asked(tmp_path: Path, organiser: Identity, own: Identity) -> None:
    """The organiser itself, everybody in an open run, and those on a list; others on no list hear that they are not."""
    file = AdmissionFile(tmp_path)
    listed = AdmissionRule.of(SecurityConfig(admission="allow-list", members=(own.peer_id,)), RUN)

    assert own_admission(rule(organiser), organiser.peer_id, "", file) == b""
    assert own_admission(AdmissionRule.of(SecurityConfig(), RUN), own.peer_id, "anything", file) == b""
    assert own_admission(listed, own.peer_id, "", file) == b""
    with pytest.raises(ConfigError, match="not among those"):
        own_admission(listed, organiser.peer_id, "", file)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"run_id": "' + b"ab" * 32 + b'", "admission": "?"}']
)
def test_a_damaged_memory_is_none(tmp_path: Path, content: bytes) -> None:
    """The node then asks for an invitation again."""
    (tmp_path / "admission.json").write_bytes(content)

    assert AdmissionFile(tmp_path).load(RUN) == b""
