"""Inner and outer step."""

import dataclasses

import pytest
import torch

from lowcomm_node.algo.correction import Correction, make_factors
from lowcomm_node.core.progress import learning_rate_at
from lowcomm_node.settings.manifest import OptimizerConfig, OuterConfig
from lowcomm_node.train.data.stream import first_batch_at
from lowcomm_node.train.evaluate import validation_loss
from lowcomm_node.train.payloads import apply_correction
from lowcomm_node.units import Stream
from tests.train.pairs import tiny_manifest, tiny_meeting, tiny_session, train


def test_training_lowers_the_loss() -> None:
    """A hundred steps on a text with structure halve the held-out loss."""
    session = tiny_session(tiny_manifest(outer=OuterConfig(every_steps=0)))
    before = validation_loss(session.replica.model, session.validation)

    train(session, 100)

    assert validation_loss(session.replica.model, session.validation) < 0.5 * before


def test_training_is_repeatable() -> None:
    """Same manifest, same peer: the same losses, bit by bit; another peer sees other batches."""
    one, same, other = (tiny_session(tiny_manifest(), peer) for peer in ("a", "a", "b"))

    losses = train(one, 5)

    assert losses == train(same, 5)
    assert losses != train(other, 5)


def test_learning_rate_follows_progress_not_own_steps() -> None:
    """A replica that a meeting has moved along the schedule uses the rate of its new place."""
    session = tiny_session(tiny_manifest())
    manifest = session.manifest
    session.replica.progress_steps = 150.0

    result = session.replica.train_step(session.stream.batch(0))

    assert result.learning_rate == learning_rate_at(150.0, manifest.training, manifest.optimizer.lr)
    assert session.replica.progress_steps == 151.0


def test_step_that_is_not_finite_changes_nothing_and_is_counted() -> None:
    """A NaN in the loss must reach neither weights nor moments; the next batch is another one."""
    session = tiny_session(tiny_manifest())
    replica = session.replica
    train(session, 2)
    replica.theta[0][0, 0] = torch.nan
    everything = torch.zeros(4, 17, dtype=torch.long)
    before = {key: tensor.clone() for key, tensor in replica.state().tensors.items()}

    result = replica.train_step(everything)

    after = replica.state().tensors
    assert not result.is_finite
    assert all(torch.equal(before[key], after[key]) or key == "params/embedding" for key in before)
    assert (replica.nonfinite_steps, replica.steps, replica.data_cursor, replica.optimizer_steps) == (1, 3, 3, 2)


def test_outer_step_is_heavy_ball_on_the_own_displacement() -> None:
    """Every H own steps: delta <- a delta + b (theta - phi), phi <- phi + delta, theta <- phi."""
    outer = OuterConfig(every_steps=4, momentum=0.5, lr=0.7)
    session = tiny_session(tiny_manifest(outer=outer))
    free = tiny_session(tiny_manifest(outer=OuterConfig(every_steps=0)))
    start = [theta.clone() for theta in session.replica.theta]

    train(session, 4)
    train(free, 4)

    replica = session.replica
    for theta, phi, delta, first, unstepped in zip(
        replica.theta, replica.phi, replica.delta, start, free.replica.theta, strict=True
    ):
        torch.testing.assert_close(delta, 0.7 * (unstepped - first))
        torch.testing.assert_close(phi, first + delta)
        assert torch.equal(theta, phi)
    assert (replica.outer_steps, free.replica.outer_steps) == (1, 0)


def test_moments_are_seen_bias_corrected() -> None:
    """After one step u / (1 - beta1) is the clipped gradient and v / (1 - beta2) its square."""
    session = tiny_session(tiny_manifest())
    replica = session.replica
    assert not replica.is_ready(Stream.EXP_AVG)

    train(session, 1)

    assert replica.is_ready(Stream.EXP_AVG)
    for parameter, u, v in zip(
        replica.model.parameters(), replica.views(Stream.EXP_AVG), replica.views(Stream.EXP_AVG_SQ), strict=True
    ):
        gradient = parameter.grad
        assert gradient is not None
        torch.testing.assert_close(u, gradient)
        torch.testing.assert_close(v, gradient.square(), rtol=1e-4, atol=1e-12)


def test_only_what_is_declared_so_is_seen_bias_corrected() -> None:
    """Muon's momentum is an average from zero, SGD's is a sum, and ADOPT's moments begin at the first gradient."""
    cases = {"muon": (Stream.MOMENTUM, 0.95), "sgd": (Stream.MOMENTUM, 0.0), "adopt": (Stream.EXP_AVG_SQ, 0.0)}

    for kind, (stream, decay) in cases.items():
        session = tiny_session(tiny_manifest(optimizer=OptimizerConfig(kind=kind, lr=1e-2)))
        train(session, 2)
        replica = session.replica
        for tensor, view in zip(replica.tensors(stream), replica.views(stream), strict=True):
            torch.testing.assert_close(view, tensor / (1 - decay**2))
        assert replica.shapes_of(stream) == tuple(tuple(tensor.shape) for tensor in replica.tensors(stream))


def test_second_moments_are_seen_in_their_logarithm_where_the_manifest_says_so() -> None:
    """exp_avg_sq_codec = "ab": log(v^ + eps^2), whatever a single plan sends; the first moment stays as it is."""
    session = tiny_session(tiny_manifest(tiny_meeting(exp_avg_sq_codec="ab")))
    train(session, 3)
    replica = session.replica

    for tensor, view in zip(replica.tensors(Stream.EXP_AVG_SQ), replica.views(Stream.EXP_AVG_SQ), strict=True):
        torch.testing.assert_close(view, (tensor / (1 - 0.99**3) + 1e-16).log())
    assert replica.is_logarithmic(Stream.EXP_AVG_SQ)
    assert not replica.is_logarithmic(Stream.EXP_AVG)


def test_corrections_of_narrow_state_are_rounded_once() -> None:
    """Dion's momentum in bf16 takes the float32 sum, not a correction whose factors were rounded before."""
    optimizer = OptimizerConfig(kind="dion", lr=1e-2, state_dtype="bf16")
    session = tiny_session(tiny_manifest(optimizer=optimizer))
    train(session, 2)
    replica, generator = session.replica, torch.Generator().manual_seed(0)
    momenta = replica.tensors(Stream.MOMENTUM)
    before = [tensor.float() for tensor in momenta]
    parts = [
        make_factors(*(torch.randn(size, 2, generator=generator) * 0.1 for size in tensor.shape)) for tensor in momenta
    ]

    apply_correction(replica, Stream.MOMENTUM, Correction(tuple(parts)), 0.5)

    for tensor, old, part in zip(momenta, before, parts, strict=True):
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, torch.addmm(old, part.a, part.b.T, alpha=0.5).bfloat16())
    assert all(view.dtype == torch.float32 for view in replica.views(Stream.MOMENTUM))


@pytest.mark.parametrize("mixing", ["direct", "momentum"])
def test_own_state_resumes_bit_exactly(mixing: str) -> None:
    """A replica that loads the state of another goes on as that one would have."""
    manifest = tiny_manifest(outer=OuterConfig(every_steps=4, mixing=mixing))
    one, resumed = tiny_session(manifest), tiny_session(manifest)
    train(one, 10)
    state = one.replica.state()
    frozen = dataclasses.replace(state, tensors={key: tensor.clone() for key, tensor in state.tensors.items()})

    resumed.replica.load(frozen, is_own=True)

    assert train(one, 7) == train(resumed, 7)
    assert one.replica.state().counters == resumed.replica.state().counters


def test_a_node_that_comes_back_with_a_donors_state_has_other_batches_than_before() -> None:
    """In no life does it train on what it had in an earlier one, however many steps it takes while the run takes few."""
    manifest = tiny_manifest()
    donor = tiny_session(manifest, "donor")
    drawn: list[int] = []
    for _ in range(3):
        train(donor, 1)
        back = tiny_session(manifest, "back")
        back.replica.load(donor.replica.state(), is_own=False)
        for _ in range(5):
            drawn.append(back.replica.data_cursor)
            train(back, 1)

    assert len(set(drawn)) == len(drawn)
    assert 0 not in drawn
    assert first_batch_at(1.1e9) < 2**53  # what a state file takes, at the end of the longest run


def test_donor_state_brings_progress_but_not_the_donors_counts() -> None:
    """A joiner stands where its donor stands, with its own counts at zero."""
    manifest = tiny_manifest()
    donor, joiner = tiny_session(manifest, "donor"), tiny_session(manifest, "joiner")
    train(donor, 9)

    joiner.replica.load(donor.replica.state(), is_own=False)

    counters = joiner.replica.state().counters
    assert (counters.progress_steps, counters.optimizer_steps) == (9.0, 9)
    assert (counters.steps, counters.tokens) == (0, 0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(session.replica.tensors(Stream.EXP_AVG_SQ) for session in (donor, joiner)), strict=True)
    )
