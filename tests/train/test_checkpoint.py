"""Checkpoints: a resumed node goes on as if nothing had been, and damage is never taken for state."""

import dataclasses
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.errors import StoreError
from lowcomm_node.settings.manifest import Manifest, OptimizerConfig, OuterConfig
from lowcomm_node.train.checkpoint import MeetingMemory, read_checkpoint, write_checkpoint
from lowcomm_node.train.desk import MeetingDesk
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.session import Session
from lowcomm_node.units import Codec, MeetingId, RunId, Stream
from tests.train.batches import one_tensor
from tests.train.pairs import RUN, Pair, tiny_manifest, tiny_session, train

_OPTIMIZERS = {
    "adamw": OptimizerConfig(kind="adamw", lr=1e-2),
    "adopt": OptimizerConfig(kind="adopt", lr=1e-2, eps=1e-6),
    "mtdao": OptimizerConfig(kind="mtdao", lr=1e-2, beta1=0.99),
    "sgd": OptimizerConfig(kind="sgd", lr=1e-1, momentum=0.9),
    "muon": OptimizerConfig(kind="muon", lr=1e-2, scalar="lion"),
    "dion": OptimizerConfig(kind="dion", lr=1e-2, rank_fraction=0.5),
    "dion-bf16": OptimizerConfig(kind="dion", lr=1e-2, state_dtype="bf16"),
}
_MEMORY = MeetingMemory(due={Stream.PARAMS: 12}, applied_meetings=(MeetingId("7" * 32),), learnt={"energy": {"x": [1]}})


def _resumed(manifest: Manifest, folder: Path) -> Session:
    """A new life from a checkpoint."""
    session = tiny_session(manifest)
    state, _ = read_checkpoint(folder, RUN, session.replica.layout())
    session.replica.load(state, is_own=True)
    return session


def _differing(one: Replica, other: Replica) -> set[str]:
    ours, theirs = one.state().tensors, other.state().tensors
    return {key for key in ours.keys() | theirs.keys() if not torch.equal(ours[key], theirs[key])}


@pytest.mark.parametrize("mixing", ["direct", "momentum"])
@pytest.mark.parametrize("kind", _OPTIMIZERS)
def test_a_resumed_node_trains_on_to_the_bit(tmp_path: Path, kind: str, mixing: str) -> None:
    """Ten steps, a checkpoint, ten steps, with outer steps: all is as in a life that was not cut, for every optimizer.

    Weights, all other state, losses, and the next batch.
    """
    manifest = tiny_manifest(outer=OuterConfig(every_steps=4, mixing=mixing), optimizer=_OPTIMIZERS[kind])
    session = tiny_session(manifest)
    train(session, 10)
    write_checkpoint(tmp_path / "1", session.replica.state(), RUN, _MEMORY)
    losses = train(session, 10)

    again = _resumed(manifest, tmp_path / "1")
    losses_again = train(again, 10)

    assert losses_again == losses
    assert _differing(again.replica, session.replica) == set()
    assert again.replica.counters == session.replica.counters
    batches = [one_tensor(s.stream.batch(s.replica.data_cursor)) for s in (session, again)]
    assert torch.equal(*batches)


@pytest.mark.parametrize("kind", _OPTIMIZERS)
def test_training_draws_from_no_generator(kind: str) -> None:
    """Why a checkpoint holds no generator's state: chance comes from the run, the node and counters alone."""
    manifest = tiny_manifest(outer=OuterConfig(every_steps=4), optimizer=_OPTIMIZERS[kind])
    one, other = tiny_session(manifest), tiny_session(manifest)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train(one, 6)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    train(other, 6)

    assert _differing(one.replica, other.replica) == set()


def test_what_meetings_have_taught_comes_back(tmp_path: Path) -> None:
    """Limits, ranges and applied meetings of the desk, and the daemon's due times, survive; and count for the next meeting."""
    manifest = tiny_manifest()
    pair = Pair(manifest)
    for _ in range(20):
        pair.meet(Stream.PARAMS)
        pair.step(1)
    desk = pair.desk_j
    memory = MeetingMemory(due={Stream.PARAMS: 31}, applied_meetings=desk.applied_meetings, learnt=desk.learnt())

    write_checkpoint(tmp_path / "1", pair.j.state(), RUN, memory)
    _, found = read_checkpoint(tmp_path / "1", RUN, pair.j.layout())
    fresh = MeetingDesk(tiny_session(manifest).replica, manifest, RUN)
    fresh.recall(found.learnt)
    fresh.forget_all(found.applied_meetings)

    assert found == memory
    assert fresh.learnt() == desk.learnt()
    assert fresh.applied_meetings == tuple(MeetingId(f"{number:032x}") for number in range(1, 21))
    assert fresh._clip_norms.limit(Stream.PARAMS, Codec.AB) == desk._clip_norms.limit(Stream.PARAMS, Codec.AB) < 1e9
    fresh.forget_all()
    assert fresh.applied_meetings == ()


@pytest.mark.parametrize(
    "change",
    [
        {"energy": {}},
        {"clip_norms": {"params zip": [1.0]}},
        {"clip_norms": {"params ab": [-1.0]}},
        {"clip_norms": 3},
        {"energy": {"params": {"energy": [1.0]}}},
    ],
)
def test_learnt_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    """One error, whatever is in it."""
    manifest = tiny_manifest()
    desk = MeetingDesk(tiny_session(manifest).replica, manifest, RUN)

    with pytest.raises(StoreError, match="cannot be used"):
        desk.recall({**desk.learnt(), **change})


class _Written:
    """A checkpoint that many examples damage, each a copy of its own."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory()
        self.replica = tiny_session(tiny_manifest()).replica
        self._original = Path(self._home.name) / "original"
        write_checkpoint(self._original, self.replica.state(), RUN, _MEMORY)
        self.sizes = {path.name: path.stat().st_size for path in self._original.iterdir()}

    @contextmanager
    def copied(self) -> Iterator[Path]:
        copy = Path(self._home.name) / "copy"
        shutil.copytree(self._original, copy)
        try:
            yield copy
        finally:
            shutil.rmtree(copy)

    def close(self) -> None:
        self._home.cleanup()


@pytest.fixture(scope="module")
def written() -> Iterator[_Written]:
    written = _Written()
    yield written
    written.close()


@given(name=st.sampled_from(["state.safetensors", "state.json"]), where=st.floats(0, 1), bits=st.integers(1, 255))
def test_any_changed_byte_is_noticed(written: _Written, name: str, where: float, bits: int) -> None:
    """In the tensors, where every value would pass for a weight, as in either header."""
    with written.copied() as folder:
        content = bytearray((folder / name).read_bytes())
        content[int(where * (len(content) - 1))] ^= bits
        (folder / name).write_bytes(content)
        try:
            state, memory = read_checkpoint(folder, RUN, written.replica.layout())
        except StoreError:
            return
    assert (memory, state.counters) == (_MEMORY, written.replica.counters)
    assert name == "state.json"  # in its white space


@given(name=st.sampled_from(["state.safetensors", "state.json"]), where=st.floats(0, 1))
def test_a_part_of_a_file_is_refused(written: _Written, name: str, where: float) -> None:
    """Cut anywhere, down to nothing."""
    with written.copied() as folder:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(where * (len(content) - 2))])

        with pytest.raises(StoreError, match="checkpoint refused"):
            read_checkpoint(folder, RUN, written.replica.layout())


def test_what_is_missing_or_foreign_is_refused(written: _Written, tmp_path: Path) -> None:
    """A file too few, another run, another model, the tensors of another checkpoint: a StoreError that says so."""
    layout = written.replica.layout()
    for name in ("state.safetensors", "state.json"):
        with written.copied() as folder:
            (folder / name).unlink()
            with pytest.raises(StoreError, match="No such file"):
                read_checkpoint(folder, RUN, layout)
    with written.copied() as folder:
        with pytest.raises(StoreError, match="belongs to run abab"):
            read_checkpoint(folder, RunId("cd" * 32), layout)
        key = "params/embedding"
        other = layout | {key: dataclasses.replace(layout[key], shape=(3, 3))}
        with pytest.raises(StoreError, match=r"instead of torch.float32 \(3, 3\)"):
            read_checkpoint(folder, RUN, other)
        session = tiny_session(tiny_manifest())
        train(session, 1)
        write_checkpoint(tmp_path / "later", session.replica.state(), RUN, _MEMORY)
        shutil.copy(tmp_path / "later" / "state.safetensors", folder)
        with pytest.raises(StoreError, match=r"digest is another|bytes instead of"):
            read_checkpoint(folder, RUN, layout)


@contextmanager
def _files_no_larger_than(num_bytes: int) -> Iterator[None]:
    """Writing fails in the middle of a file, as on a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("num_bytes", [0, 100, 20_000])
def test_a_write_that_fails_leaves_nothing_new(written: _Written, tmp_path: Path, num_bytes: int) -> None:
    """No half a checkpoint, and the one before as it was; the next attempt works."""
    state = written.replica.state()
    write_checkpoint(tmp_path / "1", state, RUN, _MEMORY)

    with _files_no_larger_than(num_bytes), pytest.raises(StoreError, match="2: checkpoint cannot be written"):
        write_checkpoint(tmp_path / "2", state, RUN, _MEMORY)

    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    write_checkpoint(tmp_path / "2", state, RUN, _MEMORY)
    for name in ("1", "2"):
        assert read_checkpoint(tmp_path / name, RUN, written.replica.layout())[1] == _MEMORY


def test_what_a_killed_writer_left_is_replaced_and_nothing_that_is_whole(written: _Written, tmp_path: Path) -> None:
    """The unfinished folder under the same number is written anew; a checkpoint is never written over."""
    left = tmp_path / ".1.unfinished"
    left.mkdir()
    (left / "state.safetensors").write_bytes(b"half")

    write_checkpoint(tmp_path / "1", written.replica.state(), RUN, _MEMORY)
    with pytest.raises(StoreError, match="there already"):
        write_checkpoint(tmp_path / "1", written.replica.state(), RUN, _MEMORY)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["state.json", "state.safetensors"]


def test_a_state_that_is_not_finite_is_not_written(written: _Written, tmp_path: Path) -> None:
    """It could not be read again, and would in time take the place of all that can."""
    state = written.replica.state()
    broken = dataclasses.replace(
        state, tensors={**state.tensors, "params/embedding": torch.full_like(written.replica.theta[0], torch.nan)}
    )

    with pytest.raises(StoreError, match=r"1: checkpoint cannot be written: params/embedding has values"):
        write_checkpoint(tmp_path / "1", broken, RUN, _MEMORY)

    assert list(tmp_path.iterdir()) == []
