"""A batch in parts: the same gradient, and what memory that runs out leads to."""

import dataclasses
import tempfile
import types
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from lowcomm_node.settings.sizes import example_bytes, fixed_bytes
from lowcomm_node.train.evaluate import validation_loss
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.session import build_session
from lowcomm_node.units import PeerId
from tests.train.pairs import RUN, distance, tiny_manifest, tiny_session, tiny_settings, train, write_text
from tests.train.threads import CPU, OPTIMIZERS, Node, manifest_of

TOLERANCE = 1e-4
"""Of the way that twelve steps go, for sums in another order."""


class Memory:
    """A device that holds activations of ``fits`` examples: what needs more fails as torch's allocator fails."""

    def __init__(self, replica: Replica, fits: int) -> None:
        self.fits = fits
        self.failures = 0
        replica.model.register_forward_pre_hook(self._allocate)

    def _allocate(self, _module: object, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > self.fits:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("micro_batches", [2, 3, 4, 100])
def test_parts_train_like_the_whole(kind: str, micro_batches: int) -> None:
    """Loss and weights equal to rounding, with parts of unequal sizes (4 examples in 3) and more parts than examples."""
    manifest = manifest_of(kind)
    whole, parts, start = (tiny_session(manifest) for _ in range(3))
    parts.replica.micro_batches = micro_batches

    losses = train(whole, 12), train(parts, 12)

    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    way = distance(whole.replica.theta, start.replica.theta)
    tolerance = 100 * TOLERANCE if kind in ("muon", "dion-bf16") else TOLERANCE  # they orthogonalise in bf16
    assert distance(whole.replica.theta, parts.replica.theta) < tolerance * way
    assert whole.replica.counters == parts.replica.counters


def test_gradient_norm_and_loss_are_the_batchs() -> None:
    """Of one step, whatever the number of parts."""
    manifest = tiny_manifest()
    results = []
    for micro_batches in (1, 2, 3, 4):
        session = tiny_session(manifest)
        session.replica.micro_batches = micro_batches
        results.append(session.replica.train_step(session.stream.batch(0)))

    for result in results[1:]:
        assert result.loss == pytest.approx(results[0].loss, rel=1e-6)
        assert result.gradient_norm == pytest.approx(results[0].gradient_norm, rel=1e-5)
        assert result.tokens == results[0].tokens


@pytest.mark.parametrize("kind", ["adamw", "dion"])
def test_devices_may_take_different_numbers_of_parts(kind: str) -> None:
    """Each device of a node has its own memory: together they train as if none were short of it."""
    plain, short = Node(manifest_of(kind)), Node(manifest_of(kind))
    memory = Memory(short.replicas[1], fits=1)

    plain.step(12)
    short.step(12)

    way = distance(plain.replicas[0].theta, Replica(manifest_of(kind), CPU).theta)
    assert distance(plain.replicas[0].theta, short.replicas[0].theta) < TOLERANCE * way
    assert [replica.micro_batches for replica in short.replicas] == [1, 4]
    assert memory.failures == 2
    assert not {name for name in short.differing() if not name.startswith("momentum")}


def test_a_batch_that_does_not_fit_is_taken_again_in_smaller_parts() -> None:
    """No data is skipped, no step is lost, and the number of parts is kept: the weights are those of a larger memory."""
    roomy, short = tiny_session(tiny_manifest()), tiny_session(tiny_manifest())
    memory = Memory(short.replica, fits=2)

    losses = train(roomy, 5), train(short, 5)

    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert short.replica.micro_batches == 2
    assert memory.failures == 1
    assert (short.replica.steps, short.replica.data_cursor) == (5, 5)
    memory.fits = 1
    train(short, 1)
    assert short.replica.micro_batches == 4


def test_memory_may_run_out_in_the_backward_pass_of_a_later_part() -> None:
    """What earlier parts have left in the gradients is not counted twice."""
    roomy, short = tiny_session(tiny_manifest()), tiny_session(tiny_manifest())
    short.replica.micro_batches = 2
    roomy.replica.micro_batches = 4
    calls = 0

    def fail_once(gradient: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError
        return gradient

    next(short.replica.model.parameters()).register_hook(fail_once)

    assert train(roomy, 1) == train(short, 1)
    assert short.replica.micro_batches == 4
    assert distance(roomy.replica.theta, short.replica.theta) == 0.0


def test_when_one_example_does_not_fit_torchs_own_error_comes_out() -> None:
    """And state is as before the step, so that it could be saved."""
    session = tiny_session(tiny_manifest())
    before = [theta.clone() for theta in session.replica.theta]
    Memory(session.replica, fits=0)

    with pytest.raises(torch.OutOfMemoryError):
        train(session, 1)

    assert session.replica.micro_batches == 4
    assert session.replica.steps == 0
    assert distance(before, session.replica.theta) == 0.0


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory")])
def test_other_errors_are_not_taken_for_want_of_memory(error: Exception) -> None:
    """They come out at once; trying again would only hide them."""
    session = tiny_session(tiny_manifest())

    def fail(_module: object, _inputs: Any) -> None:
        raise error

    session.replica.model.register_forward_pre_hook(fail)

    with pytest.raises(type(error)):
        train(session, 1)
    assert session.replica.micro_batches == 1


def test_validation_in_parts_is_the_same_loss() -> None:
    """Weighted by tokens, in unequal parts too; and a memory for one example suffices."""
    session = tiny_session(tiny_manifest())
    batches = session.validation
    whole = validation_loss(session.replica.model, batches)

    def look(parts: int) -> float:
        return validation_loss(session.replica.model, batches, parts)

    assert look(1) == whole
    assert [look(2), look(3)] == pytest.approx([whole] * 2, rel=1e-6)
    Memory(session.replica, fits=1)
    assert look(99) == pytest.approx(whole, rel=1e-6)


def test_settings_say_where_it_begins(tmp_path: Path) -> None:
    """device.micro_batches, at most one part per example."""
    settings = tiny_settings(write_text(tmp_path))

    for wanted, found in ((0, 1), (1, 1), (3, 3), (64, 4)):
        device = dataclasses.replace(settings.device, micro_batches=wanted)
        own = dataclasses.replace(settings, device=device)
        assert build_session(tiny_manifest(), own, RUN, PeerId("me")).replica.micro_batches == found


def test_a_cpu_begins_with_parts_that_fit_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of the settings' own comes first; and a machine that has little left is not asked for one example at a time."""
    manifest = manifest_of("adamw")
    example = example_bytes(manifest)

    def begins_with(free: int, wished: int = 0) -> int:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=free))
        with tempfile.TemporaryDirectory() as folder:
            settings = tiny_settings(write_text(Path(folder)))
            own = dataclasses.replace(settings, device=dataclasses.replace(settings.device, micro_batches=wished))
            return build_session(manifest, own, RUN, PeerId("me")).replica.micro_batches

    rest = fixed_bytes(manifest) + 10**9
    assert begins_with(rest) == 1
    assert begins_with(4 * 2 * example) == 2
    assert begins_with(4 * example) == 4
    assert begins_with(4 * example, wished=1) == 1
