"""One node on several devices: the same bits on all of them, and the same training as one device with their batches together."""

import math

import pytest
import torch
from torch import Tensor

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DeviceSettings
from lowcomm_node.train.desk import MeetingCommand, MeetingDesk, MeetingEvent
from lowcomm_node.train.loop import Trainer
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.session import Session, choose_devices
from lowcomm_node.units import Stream
from tests.train.batches import one_tensor
from tests.train.pairs import RUN, Pair, distance
from tests.train.test_loop import ScriptedMailbox
from tests.train.threads import CPU, OPTIMIZERS, Node, manifest_of

_STEPS = 12


def _with_batches_together(manifest: Manifest, session: Session, steps: int) -> Replica:
    """One device with all the data that two would have seen."""
    replica = Replica(manifest, CPU)
    for step in range(steps):
        replica.train_step(torch.cat([one_tensor(session.stream.batch(2 * step + rank)) for rank in range(2)]))
    return replica


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(tensors))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_replicas_stay_the_same(kind: str) -> None:
    """To the bit, through outer steps; only Dion's momentum is each device's own, until it is gathered."""
    node = Node(manifest_of(kind))

    node.step(_STEPS)

    assert {name.split("/")[0] for name in node.differing()} == ({"momentum"} if "dion" in kind else set())
    node.gather()
    assert node.differing() == []
    assert node.replicas[0].outer_steps == 1
    assert node.replicas[0].counters == node.replicas[1].counters


@pytest.mark.parametrize(("kind", "tolerance"), [("adamw", 1e-5), ("sgd", 1e-5), ("dion", 1e-4)])
def test_two_devices_are_one_with_twice_the_batch(kind: str, tolerance: float) -> None:
    """Equal to rounding, relative to the way gone, gathered on the way or not; tokens and data count both devices."""
    manifest = manifest_of(kind, grad_clip=1000.0)
    node = Node(manifest)
    expected = _with_batches_together(manifest, node.session, _STEPS)

    node.step(_STEPS // 2)
    node.gather()
    node.step(_STEPS - _STEPS // 2)
    node.gather()

    replica = node.replicas[0]
    way = distance(expected.theta, Replica(manifest, CPU).theta)
    assert distance(replica.theta, expected.theta) < tolerance * way
    for stream in replica.optimizer.local_streams:
        assert distance(replica.tensors(stream), expected.tensors(stream)) < tolerance * _norm(expected.tensors(stream))
    assert replica.tokens == expected.tokens
    assert (replica.steps, replica.data_cursor) == (_STEPS, 2 * _STEPS)


@pytest.mark.parametrize("kind", ["adamw", "dion"])
def test_clip_is_common(kind: str) -> None:
    """By the norm of the mean gradient; where that is not known (Dion's matrices), by a bound of it. Replicas clip alike."""
    manifest = manifest_of(kind, grad_clip=0.1)
    node, together = Node(manifest), Replica(manifest, CPU)
    batches = [one_tensor(node.session.stream.batch(rank)) for rank in range(2)]
    exact = together.train_step(torch.cat(batches)).gradient_norm
    norms = [0.0, 0.0]

    def step(replica: Replica, rank: int) -> None:
        norms[rank] = replica.train_step(batches[rank]).gradient_norm

    node.all(step)

    assert norms[0] == norms[1]
    assert norms[0] == pytest.approx(exact, rel=1e-5) if kind == "adamw" else exact < norms[0] < 1.5 * exact
    clipped = [_norm([p.grad for p in replica.model.parameters() if p.grad is not None]) for replica in node.replicas]
    assert math.hypot(*clipped) / 2**0.5 == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("kind", ["adamw", "dion"])
def test_one_bad_gradient_is_skipped_by_all(kind: str) -> None:
    """NaN on the second device: no replica moves, all count the step, and training goes on."""
    node = Node(manifest_of(kind))
    before = [theta.clone() for theta in node.replicas[0].theta]
    hook = next(node.replicas[1].model.parameters()).register_hook(lambda gradient: gradient * torch.nan)

    node.step(1)
    hook.remove()

    assert [replica.nonfinite_steps for replica in node.replicas] == [1, 1]
    assert all(torch.equal(a, b) for a, b in zip(before, node.replicas[0].theta, strict=True))
    node.step(1)
    assert distance(before, node.replicas[0].theta) > 0
    assert not {name for name in node.differing() if not name.startswith("momentum")}


@pytest.mark.parametrize("name", ["cuda:0,cuda:0", "cpu,cuda:0", "cuda,cuda:0"])
def test_devices_must_go_together(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds are not mixed, no GPU is named twice; the CPU may be, to try it."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    with pytest.raises(ConfigError, match="several devices are different GPUs"):
        choose_devices(DeviceSettings(name=name))
    assert choose_devices(DeviceSettings(name="cuda:0, cuda:1")) == (torch.device("cuda:0"), torch.device("cuda:1"))
    assert choose_devices(DeviceSettings(name="cpu,cpu")) == (CPU, CPU)


def test_a_meeting_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each correction the trainer has the other devices take over what it changed, guarded optimizer state included."""
    manifest = manifest_of("adamw")
    pair, mailbox = Pair(manifest), ScriptedMailbox()
    shared: list[tuple[bool, float]] = []

    def share(replica: Replica, *, with_optimizer: bool) -> None:
        shared.append((with_optimizer, replica.progress_steps))

    monkeypatch.setattr(Replica, "share", share)
    trainer = Trainer(pair.sessions[0], mailbox)

    class Desk(MeetingDesk):
        def handle(self, command: MeetingCommand) -> MeetingEvent:
            trainer._handle(command)
            event = mailbox.posted[-1]
            assert isinstance(event, MeetingEvent)
            return event

    pair.desk_i = Desk(pair.i, manifest, RUN)
    pair.j.progress_steps += 2
    pair.meet(Stream.PARAMS)
    pair.meet(Stream.PARAMS, Stream.EXP_AVG_SQ)

    assert shared == [(False, 7.0), (True, 7.0)]
