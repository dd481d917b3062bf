"""What a node remembers of its run: whole or not at all."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.adapters.run_memory import RememberedRun, RunMemory
from lowcomm_node.errors import StoreError
from lowcomm_node.settings.canonical import canonical_bytes, run_id
from lowcomm_node.settings.manifest import Manifest

MANIFEST = Manifest(name="remembered")
CANONICAL = canonical_bytes(MANIFEST)
PEERS = ("/ip4/10.0.0.1/tcp/1/p2p/a", "/ip4/10.0.0.2/tcp/2/p2p/b")


def test_what_is_saved_is_remembered(tmp_path: Path) -> None:
    """The newest knowledge replaces the older, in one step and leaving nothing else."""
    memory = RunMemory(tmp_path)
    assert memory.load() is None

    memory.save(CANONICAL, ("old",))
    memory.save(CANONICAL, (*PEERS, PEERS[0]))

    assert memory.load() == RememberedRun(run_id=run_id(MANIFEST), manifest=CANONICAL, peers=PEERS)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_the_file_stays_small(tmp_path: Path) -> None:
    """However many addresses there are, and however long."""
    memory = RunMemory(tmp_path)

    memory.save(CANONICAL, [f"peer {number}" for number in range(1000)] + ["x" * 10**6])

    found = memory.load()
    assert found is not None
    assert found.peers == tuple(f"peer {number}" for number in range(32))


@given(where=st.floats(0, 1), data=st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_one_error(tmp_path_factory: pytest.TempPathFactory, where: float, data: bytes) -> None:
    """Or says the same, or names other addresses, which are asked who they are; never another manifest."""
    folder = tmp_path_factory.mktemp("memory")
    memory = RunMemory(folder)
    memory.save(CANONICAL, PEERS)
    content = bytearray((folder / "run.json").read_bytes())
    start = int(where * (len(content) - len(data)))
    content[start : start + len(data)] = data
    (folder / "run.json").write_bytes(content)
    try:
        found = memory.load()
    except StoreError:
        return
    assert found is not None
    assert found.manifest == CANONICAL


@pytest.mark.parametrize(
    "document",
    [
        "[]",
        "{}",
        json.dumps({"run_id": run_id(MANIFEST), "manifest": "{}", "peers": []}),
        json.dumps({"run_id": run_id(MANIFEST), "manifest": CANONICAL.decode(), "peers": [3]}),
        json.dumps({"run_id": run_id(MANIFEST), "manifest": CANONICAL.decode(), "peers": ["x" * 1000]}),
        " " * 2**21,
    ],
)
def test_nonsense_is_refused(tmp_path: Path, document: str) -> None:
    """A manifest that is another run's above all."""
    (tmp_path / "run.json").write_text(document)

    with pytest.raises(StoreError, match="damaged"):
        RunMemory(tmp_path).load()


def test_no_place_to_write_is_an_error(tmp_path: Path) -> None:
    """Of ours, not the system's."""
    with pytest.raises(StoreError, match="cannot be written"):
        RunMemory(tmp_path / "absent").save(CANONICAL, PEERS)
