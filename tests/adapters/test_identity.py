"""The identity file."""

import stat
from pathlib import Path

import pytest

from lowcomm_node.adapters.identity import Identity, load_or_create
from lowcomm_node.errors import ConfigError


def test_an_identity_is_made_once_and_stays(tmp_path: Path) -> None:
    """The second start of a node finds the peer id of the first; the file is for its owner alone."""
    path = tmp_path / "node" / "identity.key"

    first, second = load_or_create(path), load_or_create(path)

    assert first.peer_id == second.peer_id
    assert first.peer_id.startswith("12D3KooW")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["identity.key"]


def test_what_a_node_signs_is_verified_by_its_peer_id_alone(tmp_path: Path) -> None:
    """A signature holds for the signer and the signed bytes, and for nobody and nothing else."""
    ann, bob = load_or_create(tmp_path / "a"), load_or_create(tmp_path / "b")

    signature = ann.sign(b"words")

    assert Identity.verify(ann.peer_id, signature, b"words")
    assert not Identity.verify(bob.peer_id, signature, b"words")
    assert not Identity.verify(ann.peer_id, signature, b"other words")
    assert not Identity.verify(ann.peer_id, b"", b"words")


def test_the_key_does_not_show(tmp_path: Path) -> None:
    """An identity in a log line or a traceback gives nothing away."""
    identity = load_or_create(tmp_path / "a")

    assert "Ed25519PrivateKey" not in repr(identity)


def test_a_key_that_others_can_read_is_refused_with_the_cure(tmp_path: Path) -> None:
    """A copied key file with loose permissions is not used silently."""
    path = tmp_path / "identity.key"
    load_or_create(path)
    path.chmod(0o640)

    with pytest.raises(ConfigError, match=r"chmod 600 .*identity\.key"):
        load_or_create(path)


@pytest.mark.parametrize("data", [b"", b"\x08\x01\x12\x40short", b"\x08\x00\x12\x40" + bytes(64)])
def test_another_kind_of_file_is_refused(tmp_path: Path, data: bytes) -> None:
    """Empty, short and foreign key files are named, not replaced."""
    path = tmp_path / "identity.key"
    path.write_bytes(data)
    path.chmod(0o600)

    with pytest.raises(ConfigError, match="not an Ed25519 identity"):
        load_or_create(path)
    assert path.read_bytes() == data


def test_halves_of_two_keys_are_refused(tmp_path: Path) -> None:
    """A damaged file does not become a node with another peer id than its key."""
    ann, bob = load_or_create(tmp_path / "a"), load_or_create(tmp_path / "b")
    ann.path.write_bytes(ann.path.read_bytes()[:36] + bob.path.read_bytes()[36:])

    with pytest.raises(ConfigError, match="damaged"):
        load_or_create(tmp_path / "a")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A state directory below a file gives one clear error."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="cannot keep the node's identity"):
        load_or_create(tmp_path / "file" / "identity.key")
