"""A replica in AB-training: what its steps change in each stage, what it holds, and what it tells."""

import dataclasses
from pathlib import Path

import pytest
import torch

from lowcomm_node.core.ab_stages import Stage
from lowcomm_node.errors import StoreError
from lowcomm_node.settings.ab_training import AbTrainingConfig
from lowcomm_node.settings.manifest import OptimizerConfig, OuterConfig
from lowcomm_node.train.checkpoint import MeetingMemory, read_checkpoint, write_checkpoint
from lowcomm_node.train.frozen_requests import serve_frozen
from lowcomm_node.train.messages import Failed, TakeFrozen
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Factor
from tests.train.frozen import (
    DIGEST,
    OTHER_DIGEST,
    ab_manifest,
    copies,
    held,
    minus,
    parts,
    size,
    take,
    write_split,
)
from tests.train.pairs import RUN, tiny_session, train
from tests.train.threads import OPTIMIZERS, Node

_FP32 = 1e-5


@pytest.mark.parametrize("kind", ["adamw", "sgd", "muon", "dion"])
@pytest.mark.parametrize("factor", Factor)
def test_steps_stay_within_the_span(kind: str, factor: Factor, tmp_path: Path) -> None:
    """Whatever the optimizer, weight decay included; what is not split is trained as always, and in the rebound everything is."""
    session = tiny_session(ab_manifest(optimizer=OPTIMIZERS[kind]))
    replica = session.replica
    train(session, 22)
    take([replica], write_split(replica, tmp_path), factor)
    frozen, before = held(replica), copies(replica.theta)

    train(session, 5)

    change = minus(replica.theta, before)
    inside, outside = parts(change, frozen)
    assert size(outside) < _FP32 * size(before) < 0.05 * size(inside)
    assert all(change[p].abs().max() > 0 for p in range(len(before)) if p not in frozen.tensors)
    replica.progress_steps = 105.0
    before = copies(replica.theta)
    train(session, 1)
    inside, outside = parts(minus(replica.theta, before), frozen)
    assert size(outside) > 0.1 * size(inside)


def test_until_there_are_frozen_factors_everything_is_trained(tmp_path: Path) -> None:
    """In the warm-up to the bit as in a run without AB-training; in an epoch whose factors have not come, too, but for the ramp."""
    manifest = ab_manifest()
    session = tiny_session(manifest)
    plain = tiny_session(
        dataclasses.replace(manifest, outer=OuterConfig(every_steps=0), ab_training=AbTrainingConfig())
    )

    train(session, 20)
    train(plain, 20)

    assert all(map(torch.equal, session.replica.theta, plain.replica.theta))
    take([session.replica], write_split(session.replica, tmp_path, epoch=2), Factor.A, epoch=2)
    before = copies(session.replica.theta)
    train(session, 1)
    inside, outside = parts(minus(session.replica.theta, before), held(session.replica))
    assert size(outside) > 0.1 * size(inside)


def test_the_learning_rate_ramps_after_a_change_of_stage() -> None:
    """From a fifth up within the four steps that a ramp of two percent takes."""
    session = tiny_session(ab_manifest())
    train(session, 18)
    replica = session.replica

    rates = [replica.train_step(session.stream.batch(replica.data_cursor)).learning_rate for _ in range(8)]

    assert rates[1] == pytest.approx(0.0099, rel=0.03)
    assert [rate / rates[1] for rate in rates[2:]] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rel=0.03)


def test_an_uncut_split_with_all_of_the_rank_trains_a_square_matrix_whole(tmp_path: Path) -> None:
    """The span of V is then everything, and nothing is lost on the way: to the bit as without frozen factors."""
    manifest = ab_manifest(budget_ratio=1.0)
    one, other = tiny_session(manifest), tiny_session(manifest)
    train(one, 20)
    train(other, 20)
    take([one.replica], write_split(one.replica, tmp_path), Factor.A)

    train(one, 3)
    train(other, 3)

    assert all(map(torch.equal, one.replica.theta, other.replica.theta))


def test_the_newest_two_are_held(tmp_path: Path) -> None:
    """A second one of an epoch takes the first one's place; the first is still known, for meetings under way; a third ends it."""
    replica = tiny_session(ab_manifest()).replica
    path = write_split(replica, tmp_path)
    ab = replica.ab
    assert ab is not None
    digests = [DIGEST, OTHER_DIGEST, "aa" * 32]

    for digest in digests:
        take([replica], path, Factor.B, digest=digest)

        assert ab.in_use(30.0) is held(replica, digest)
        assert ab.in_use(10.0) is None
    assert [ab.find(digest) is not None for digest in digests] == [False, True, True]
    take([replica], path, Factor.A, digest=OTHER_DIGEST)
    assert held(replica, OTHER_DIGEST).factor is Factor.A
    assert ab.find(digests[2]) is not None
    assert ab.in_use(30.0) is held(replica, OTHER_DIGEST)
    assert ab.in_use(115.0) is None


@pytest.mark.parametrize("factor", Factor)
def test_what_is_told(factor: Factor, tmp_path: Path) -> None:
    """Stage and epoch always; rank and energy by kind of layer, and what it saves, while a factor is trained."""
    replica = tiny_session(ab_manifest()).replica
    ab = replica.ab
    assert ab is not None
    take([replica], write_split(replica, tmp_path), factor)

    warm_up, trained, rebound = (ab.report(progress) for progress in (0.0, 50.0, 105.0))

    assert (warm_up.stage, warm_up.epoch, warm_up.digest) == (Stage.WARM_UP, 0, "")
    assert (rebound.stage, rebound.epoch, rebound.digest) == (Stage.REBOUND, 1, "")
    assert (trained.stage, trained.epoch, trained.digest, trained.factor) == (Stage.FACTORS, 1, DIGEST, factor)
    assert sum(group.tensors for group in trained.groups) == len(ab.positions) == 7
    assert all(group.name.startswith("blocks.*.") and ".weight" not in group.name for group in trained.groups)
    assert {group.rank / group.whole_rank for group in trained.groups} == {0.5}
    assert all(0.5 < group.energy_kept < 1 for group in trained.groups)
    assert 0.5 < trained.energy_kept < 1
    assert 1 < trained.compression < 2


def test_a_span_without_our_weights_is_refused(tmp_path: Path) -> None:
    """Orthonormal columns that hold less of the weights than arbitrary ones do are nobody's leading vectors."""
    session = tiny_session(ab_manifest())
    replica = session.replica
    path = write_split(replica, tmp_path)
    ab = replica.ab
    assert ab is not None
    take([replica], path, Factor.A)
    for position, F in held(replica).tensors.items():  # noqa: N806 - as in algo
        weights = replica.theta[position]
        tall_one = weights if weights.shape[0] >= weights.shape[1] else weights.T
        tall_one.sub_(0.95 * tall_one @ F @ F.T)

    request = TakeFrozen(epoch=1, path=str(path), digest=OTHER_DIGEST, factor=Factor.A)
    refused = serve_frozen(replica, request, RUN)

    assert isinstance(refused, Failed)
    assert not refused.is_fatal
    assert "less than arbitrary ones would" in refused.detail
    assert ab.find(OTHER_DIGEST) is None
    replica.theta[ab.positions[0]][0, 0] = torch.nan
    with pytest.raises(StoreError, match="not finite"):
        ab.split(replica.theta, 1)


def test_a_run_in_factors_learns(tmp_path: Path) -> None:
    """A node alone through both epochs, a factor each: nearly as far as the same steps whole."""
    manifest = ab_manifest(optimizer=OptimizerConfig(kind="adamw", lr=3e-3))
    session, whole = tiny_session(manifest), tiny_session(manifest)

    losses = train(session, 20)
    for epoch, factor in ((1, Factor.A), (2, Factor.B)):
        take([session.replica], write_split(session.replica, tmp_path, epoch), factor, epoch, f"{epoch:064x}")
        losses += train(session, 90)
    whole_losses = train(whole, 200)

    start, end, end_whole = (sum(some) / 10 for some in (losses[:10], losses[-10:], whole_losses[-10:]))
    assert end < 0.6 * start
    assert start - end > 0.85 * (start - end_whole)


@pytest.mark.parametrize("factor", Factor)
def test_a_restart_resumes_to_the_bit(factor: Factor, tmp_path: Path) -> None:
    """Nothing of AB-training is in a checkpoint: with the file given again, training goes on as if nothing had been."""
    session = tiny_session(ab_manifest())
    train(session, 25)
    path = write_split(session.replica, tmp_path)
    take([session.replica], path, factor)
    train(session, 5)
    write_checkpoint(tmp_path / "1", session.replica.state(), RUN, MeetingMemory())
    train(session, 5)

    again = tiny_session(ab_manifest())
    again.replica.load(read_checkpoint(tmp_path / "1", RUN, again.replica.layout())[0], is_own=True)
    take([again.replica], path, factor)
    train(again, 5)

    one, other = (replica.state() for replica in (session.replica, again.replica))
    assert one.counters == other.counters
    assert [name for name, tensor in one.tensors.items() if not torch.equal(tensor, other.tensors[name])] == []


@pytest.mark.parametrize("factor", Factor)
def test_all_devices_of_a_node_train_one_factor(factor: Factor, tmp_path: Path) -> None:
    """The second has what the first one shares, and both stay equal to the bit, within the span."""
    node = Node(ab_manifest())
    node.step(22)
    first = node.replicas[0]
    path = write_split(first, tmp_path)

    def freeze(replica: Replica, rank: int) -> None:
        assert replica.ab is not None
        if rank == 0:
            take([replica], path, factor)
            return
        ranks = [shape.largest_rank for shape in replica.ab.split_shapes().values()]
        replica.take_frozen(replica.ab.blank(1, DIGEST, factor, ranks, replica.theta))

    node.all(freeze)
    before = copies(first.theta)
    node.step(5)

    assert node.differing() == []
    assert all(map(torch.equal, *(list(held(replica).tensors.values()) for replica in node.replicas)))
    inside, outside = parts(minus(first.theta, before), held(first))
    assert size(outside) < _FP32 * size(before) < 0.05 * size(inside)
