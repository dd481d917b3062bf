"""Followers are processes: they do what their leader does, and neither outlives the other."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from lowcomm_node.errors import TrainerError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.checkpoint import MeetingMemory, read_checkpoint, write_checkpoint
from lowcomm_node.train.child import EXIT_FAILED
from lowcomm_node.train.desk import MeetingDesk
from lowcomm_node.train.devices import lead
from lowcomm_node.train.messages import Configure, Failed, Ready, Report, Run, Stop, Stopped
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.session import build_session
from lowcomm_node.train.state_file import Counters, TrainingState
from lowcomm_node.train.state_writer import StateJob, StateWriter
from lowcomm_node.units import Factor, PeerId, Stream
from tests.train.frozen import ab_manifest, take, write_split
from tests.train.pairs import RUN, Pair, tiny_manifest, tiny_settings, train, write_text
from tests.train.test_process import TrainerProcess
from tests.train.threads import CPU, Node, manifest_of

pytestmark = pytest.mark.system

_PATIENCE_S = 60.0
_STEPS = 12


@pytest.fixture
def question(tmp_path: Path) -> Configure:
    """What the daemon asks of a trainer on two devices."""
    settings = tiny_settings(write_text(tmp_path))
    settings = dataclasses.replace(settings, device=dataclasses.replace(settings.device, name="cpu,cpu"))
    manifest = tiny_manifest(total_steps=100_000)
    return Configure(manifest=manifest, settings=settings, run_id=RUN, peer_id=PeerId("peer"))


@pytest.mark.parametrize("kind", ["adamw", "dion-bf16"])
def test_followers_do_what_the_leader_does(kind: str, question: Configure) -> None:
    """Steps, a meeting about all streams, state written and loaded: to the bit what replicas in threads do by hand."""
    question = dataclasses.replace(question, manifest=manifest_of(kind))
    manifest = question.manifest
    node = Node(manifest)
    first = node.replicas[0]
    desk = MeetingDesk(first, manifest, RUN)

    node.step(_STEPS)
    node.gather()
    _meet(first, desk, manifest)
    node.all(_take_over(first.counters, with_optimizer=True))
    node.step(_STEPS)
    node.gather()
    node.all(lambda replica, _: replica.load(first.state(), is_own=False))
    node.step(_STEPS)
    _meet(first, desk, manifest, Stream.PARAMS)
    node.all(_take_over(first.counters, with_optimizer=False))
    node.step(_STEPS)
    node.gather()
    with lead(question, (CPU, CPU), _PATIENCE_S) as group:
        session = build_session(manifest, question.settings, RUN, question.peer_id, group)
        leader = session.replica
        desk = MeetingDesk(leader, manifest, RUN)
        train(session, _STEPS)
        _meet(leader, desk, manifest)
        leader.share(with_optimizer=True)
        train(session, _STEPS)
        leader.load(leader.state(), is_own=False)
        train(session, _STEPS)
        _meet(leader, desk, manifest, Stream.PARAMS)
        leader.share(with_optimizer=False)
        train(session, _STEPS)
        state = leader.state()

    assert node.differing() == []
    expected = first.state()
    assert state.counters == expected.counters
    assert [name for name, tensor in state.tensors.items() if not torch.equal(tensor, expected.tensors[name])] == []


def test_followers_train_the_factor_that_the_leader_has_taken(question: Configure, tmp_path: Path) -> None:
    """Its frozen factors travel to them: steps in role, and a stage that ends by progress, to the bit as replicas in threads do."""
    manifest = ab_manifest()
    question = dataclasses.replace(question, manifest=manifest)
    node = Node(manifest)

    node.step(22)
    first = node.replicas[0]
    path = write_split(first, tmp_path)
    node.all(lambda replica, rank: take([replica], path, Factor.A))
    node.step(_STEPS)
    node.all(_take_over(dataclasses.replace(first.counters, progress_steps=104.0), with_optimizer=False))
    node.step(_STEPS)
    with lead(question, (CPU, CPU), _PATIENCE_S) as group:
        session = build_session(manifest, question.settings, RUN, question.peer_id, group)
        leader = session.replica
        train(session, 22)
        take([leader], path, Factor.A)
        train(session, _STEPS)
        leader.progress_steps = 104.0
        leader.share(with_optimizer=False)
        train(session, _STEPS)
        state = leader.state()

    expected = first.state()
    assert node.differing() == []
    assert state.counters == expected.counters
    assert [name for name, tensor in state.tensors.items() if not torch.equal(tensor, expected.tensors[name])] == []


@pytest.mark.parametrize("kind", ["adamw", "dion-bf16"])
def test_several_devices_resume_to_the_bit(
    kind: str, question: Configure, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A checkpoint written while they train on, and a new life of all devices from it: the same state after as many steps."""
    question = dataclasses.replace(question, manifest=manifest_of(kind))
    folder = tmp_path_factory.mktemp("checkpoints") / "1"
    states: list[TrainingState] = []

    with lead(question, (CPU, CPU), _PATIENCE_S) as group:
        session = build_session(question.manifest, question.settings, RUN, question.peer_id, group)
        writer = StateWriter(session.replica)
        written: list[Counters] = []
        writer.add(
            StateJob(
                freeze=lambda: lambda state: write_checkpoint(folder, state, RUN, MeetingMemory()),
                on_written=written.append,
                on_failed=lambda error: pytest.fail(str(error)),
            )
        )
        while not writer.at_boundary():
            train(session, 1)
        train(session, _STEPS)
        writer.finish()
        states.append(session.replica.state())
    with lead(question, (CPU, CPU), _PATIENCE_S) as group:
        session = build_session(question.manifest, question.settings, RUN, question.peer_id, group)
        session.replica.load(read_checkpoint(folder, RUN, session.replica.layout())[0], is_own=True)
        assert session.replica.counters == written[0]
        train(session, _STEPS)
        states.append(session.replica.state())

    one, other = states
    assert one.counters == other.counters
    assert [name for name, tensor in one.tensors.items() if not torch.equal(tensor, other.tensors[name])] == []


def _meet(replica: Replica, desk: MeetingDesk, manifest: Manifest, *streams: Stream) -> None:
    """A meeting with a node that has gone its own way, about all streams that can be met about, or these."""
    pair = Pair(manifest, steps=6)
    pair.i, pair.desk_i = replica, desk
    pair.meet(*(streams or [stream for stream in replica.streams if stream is not Stream.BASIS]))


def _take_over(counters: Counters, *, with_optimizer: bool) -> Callable[[Replica, int], None]:
    def do(replica: Replica, rank: int) -> None:
        replica.counters = counters
        replica.share(with_optimizer=with_optimizer)

    return do


@pytest.fixture
def trainer(question: Configure) -> Iterator[TrainerProcess]:
    """The trainer process on two devices, in the middle of training."""
    process = TrainerProcess()
    process.send(question)
    assert process.expect(Ready).device == "cpu, cpu"
    process.send(Run())
    while process.expect(Report).steps < 5:
        pass
    yield process
    process.connection.close()
    process.process.kill()
    process.process.wait(_PATIENCE_S)


def test_trainer_trains_on_all_devices_and_ends_with_none_left(trainer: TrainerProcess) -> None:
    """Tokens of both are counted; Stop ends both in order."""
    followers = _followers(trainer)

    report = trainer.expect(Report)
    trainer.send(Stop(path=""))
    trainer.expect(Stopped)

    assert report.tokens == report.steps * 2 * 64
    assert trainer.exit_status() == 0
    _, alive = psutil.wait_procs(followers, _PATIENCE_S)
    assert alive == []


def test_dead_follower_ends_the_trainer(trainer: TrainerProcess) -> None:
    """One fatal message that names the device and what became of it, and whose doing the daemon has to find out."""
    (follower,) = _followers(trainer)

    follower.kill()
    failed = _failure(trainer)

    assert (failed.code, failed.is_fatal) == ("killed", True)
    assert failed.detail == "training on 2 devices has stopped: cpu (device 2 of 2) ended with status -9"
    assert trainer.exit_status() == EXIT_FAILED


def test_dead_trainer_leaves_no_follower(trainer: TrainerProcess) -> None:
    """However it dies."""
    followers = _followers(trainer)

    trainer.process.kill()

    assert psutil.wait_procs(followers, _PATIENCE_S)[1] == []


def test_hanging_follower_is_not_waited_for(question: Configure) -> None:
    """An error after the time-out, and nothing is left of it."""
    with lead(question, (CPU, CPU), 2.0) as group:
        session = build_session(question.manifest, question.settings, RUN, question.peer_id, group)
        train(session, 2)
        (follower,) = psutil.Process().children()
        follower.suspend()
        with pytest.raises(TrainerError, match="a device did not answer within 2 s"):
            train(session, 1)

    assert not follower.is_running()


def test_follower_says_what_went_wrong(question: Configure, tmp_path: Path) -> None:
    """A follower that cannot even build its session ends the leader's first step with its own words."""
    data = dataclasses.replace(question.settings.data, paths=(str(tmp_path / "absent"),))
    broken = dataclasses.replace(question, settings=dataclasses.replace(question.settings, data=data))
    with lead(broken, (CPU, CPU), _PATIENCE_S) as group:
        session = build_session(question.manifest, question.settings, RUN, question.peer_id, group)
        with pytest.raises(TrainerError, match=r"cpu \(device 2 of 2\): .*absent"):
            train(session, 1)


def _followers(trainer: TrainerProcess) -> list[psutil.Process]:
    return psutil.Process(trainer.process.pid).children()


def _failure(trainer: TrainerProcess) -> Failed:
    """The trainer's last message, reports before it passed over."""
    while True:
        assert trainer.connection.poll(_PATIENCE_S)
        message = trainer.connection.recv()
        if isinstance(message, Failed):
            return message
