"""The other thread: what it writes is one step boundary's state, one at a time, and the step loop waits for none of it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from lowcomm_node.errors import StoreError
from lowcomm_node.settings.manifest import OptimizerConfig, OuterConfig
from lowcomm_node.train.checkpoint import MeetingMemory, read_checkpoint, write_checkpoint
from lowcomm_node.train.session import Session
from lowcomm_node.train.state_file import Counters, TrainingState
from lowcomm_node.train.state_writer import StateJob, StateWriter
from tests.train.pairs import RUN, tiny_manifest, tiny_session, train

_PATIENCE_S = 60.0


@dataclass
class Slow:
    """Writing that takes until the test says so."""

    write: Callable[[TrainingState], None] = lambda _: None
    may_write: threading.Event = field(default_factory=threading.Event)
    began: threading.Event = field(default_factory=threading.Event)
    written: list[Counters] = field(default_factory=list)
    failed: list[StoreError] = field(default_factory=list)

    def job(self) -> StateJob:
        return StateJob(freeze=lambda: self._write, on_written=self.written.append, on_failed=self.failed.append)

    def _write(self, state: TrainingState) -> None:
        self.began.set()
        assert self.may_write.wait(_PATIENCE_S)
        self.write(state)


def _boundary(writer: StateWriter, session: Session) -> int:
    """Train until the state was copied; returns the steps taken by then."""
    while not writer.at_boundary():
        train(session, 1)
    return session.replica.steps


@pytest.mark.parametrize("kind", ["adamw", "dion"])
def test_the_file_holds_the_boundary_whatever_is_trained_meanwhile(tmp_path: Path, kind: str) -> None:
    """Nothing that is written shares memory with what is trained: every tensor changes before the first byte is written."""
    manifest = tiny_manifest(outer=OuterConfig(every_steps=2), optimizer=OptimizerConfig(kind=kind, lr=1e-2))
    session = tiny_session(manifest)
    writer = StateWriter(session.replica)
    slow = Slow(write=lambda state: write_checkpoint(tmp_path / "1", state, RUN, MeetingMemory()))
    train(session, 3)
    writer.add(slow.job())
    steps = _boundary(writer, session)
    expected = {key: tensor.clone() for key, tensor in session.replica.state().tensors.items()}

    train(session, 4)
    changed = {key for key, tensor in session.replica.state().tensors.items() if not torch.equal(tensor, expected[key])}
    slow.may_write.set()
    writer.finish()

    assert changed == expected.keys()
    state, _ = read_checkpoint(tmp_path / "1", RUN, session.replica.layout())
    assert state.counters.steps == steps
    assert slow.written == [state.counters]
    assert all(torch.equal(state.tensors[key], expected[key]) for key in expected)


def test_steps_are_taken_while_a_state_is_written_and_never_two_at_once() -> None:
    """A second request waits for the first without holding up a step, then has its own boundary."""
    session = tiny_session(tiny_manifest())
    writer, slow = StateWriter(session.replica), Slow()
    writer.add(slow.job())
    first = _boundary(writer, session)
    assert slow.began.wait(_PATIENCE_S)
    writer.add(slow.job())

    for _ in range(5):
        assert not writer.at_boundary()
        train(session, 1)
    slow.may_write.set()
    second = _boundary(writer, session)
    writer.finish()

    assert second >= first + 5
    assert [counters.steps for counters in slow.written] == [first, second]


def test_the_copy_takes_memory_once() -> None:
    """Once as much as the state, however many are written, and none before the first."""
    session = tiny_session(tiny_manifest())
    writer, slow = StateWriter(session.replica), Slow()
    slow.may_write.set()
    assert writer._copy == {}
    places: list[list[int]] = []
    slow.write = lambda state: places.append([tensor.data_ptr() for tensor in state.tensors.values()])

    for _ in range(3):
        writer.add(slow.job())
        _boundary(writer, session)
    writer.finish()

    assert len(slow.written) == 3
    assert places[0] == places[1] == places[2]


def test_without_a_step_to_take_it_begins_at_once() -> None:
    """Before training and after it nothing is waited for, so nothing need be prepared."""
    session = tiny_session(tiny_manifest())
    writer, slow = StateWriter(session.replica), Slow()
    slow.may_write.set()
    writer.add(slow.job())
    writer.add(slow.job())

    writer.while_idle()
    writer.finish()

    assert [counters.steps for counters in slow.written] == [0, 0]


def test_a_failed_write_is_told_and_the_next_one_works() -> None:
    """A full disk ends one attempt and nothing else."""
    session = tiny_session(tiny_manifest())
    writer, slow = StateWriter(session.replica), Slow()
    slow.may_write.set()

    def full(_: TrainingState) -> None:
        raise StoreError("no space left")

    slow.write = full
    writer.add(slow.job())
    _boundary(writer, session)
    writer.while_idle()
    writer.add(slow.job())
    _boundary(writer, session)
    slow.write = lambda _: None
    writer.add(slow.job())
    writer.finish()

    assert [str(error) for error in slow.failed][:1] == ["no space left"]
    assert len(slow.failed) + len(slow.written) == 3
    assert slow.written


def test_no_memory_for_the_copy_is_a_failure_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on without checkpoints, each of them told."""
    session = tiny_session(tiny_manifest())
    writer, slow = StateWriter(session.replica), Slow()

    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "empty", refuse)
    for _ in range(2):
        writer.add(slow.job())
        writer.while_idle()
    writer.finish()

    assert ["no memory for a copy" in str(error) for error in slow.failed] == [True, True]
    assert slow.written == []


def test_our_own_mistakes_are_not_swallowed() -> None:
    """What is no StoreError ends the trainer, by the next call."""
    session = tiny_session(tiny_manifest())
    writer, slow = StateWriter(session.replica), Slow()
    slow.may_write.set()

    def break_(_: TrainingState) -> None:
        raise ZeroDivisionError

    slow.write = break_
    writer.add(slow.job())
    _boundary(writer, session)

    with pytest.raises(ZeroDivisionError):
        writer.finish()
    writer.close()
    assert not slow.written
    assert not slow.failed
