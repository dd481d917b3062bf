"""Where test matrices of an own offer come from."""

import pytest
import torch
from torch import Tensor

from lowcomm_node.algo.correction import Correction, make_factors
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.train.directions import Directions
from lowcomm_node.units import Codec, Dtype, Omega, Stream
from tests.train.pairs import Pair, distance, means, tiny_manifest, tiny_meeting

_SEED = b"seed"


def _plan(omega: Omega, *ranks: int) -> StreamPlan:
    return StreamPlan(stream=Stream.PARAMS, codec=Codec.AB, dtype=Dtype.FP32, ranks=ranks, omega=omega)


def _factors(columns: Tensor) -> Correction:
    """C of one 6 x n tensor, whose row space is that of ``columns``, and of one that was left out."""
    rank = columns.shape[1]
    return Correction((make_factors(torch.eye(6, rank), columns), None))


def _look(tensors: list[Tensor]) -> Directions:
    return Directions(Omega.DISPLACEMENT, lambda _: tensors)


@pytest.mark.parametrize("omega", [Omega.CACHED, Omega.DISPLACEMENT])
def test_before_the_first_meeting_there_is_nothing_to_go_by(omega: Omega) -> None:
    """Every basis is missing, and the codec fills it up with seeded columns; so it is again when the state was replaced."""
    tensors = [torch.ones(6, 4), torch.ones(3)]
    directions = Directions(omega, lambda _: tensors)

    assert directions.bases(_plan(omega, 2, -1), _SEED) == (None, None)

    directions.corrected(Stream.PARAMS, _factors(torch.eye(4, 2)))
    found = directions.bases(_plan(omega, 2, -1), _SEED)
    assert found is not None
    assert found[0] is not None
    assert directions.bases(_plan(Omega.SEEDED, -1, -1), _SEED) is None

    directions.forget()
    assert directions.bases(_plan(omega, 2, -1), _SEED) == (None, None)


def test_cached_is_the_row_space_of_the_newest_correction_of_each_tensor() -> None:
    """Orthogonal columns; a tensor that was left out of the last meeting keeps what it had; streams are apart."""
    directions = Directions(Omega.CACHED, lambda _: [])
    columns = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    directions.corrected(Stream.PARAMS, _factors(columns))
    directions.corrected(Stream.PARAMS, Correction((None, None)))
    directions.corrected(Stream.EXP_AVG, _factors(torch.eye(4, 1)))

    found = directions.bases(_plan(Omega.CACHED, 2, 0), _SEED)

    assert found is not None
    basis, nothing = found
    assert basis is not None
    assert nothing is None
    unit = basis / basis.norm(dim=0)
    torch.testing.assert_close(unit.T @ unit, torch.eye(2))
    torch.testing.assert_close(unit @ (unit.T @ columns), columns)


def test_displacement_follows_the_own_movement_since_the_last_meeting() -> None:
    """A movement of rank 1 is found whole, however far the node had come before."""
    tensors = [torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.ones(3)]
    directions = _look(tensors)
    directions.corrected(Stream.PARAMS, _factors(torch.eye(4, 1)))
    way = torch.tensor([1.0, -2.0, 0.0, 0.5])
    tensors[0] += torch.outer(torch.arange(6.0), way)

    found = directions.bases(_plan(Omega.DISPLACEMENT, 1, -1), _SEED)

    assert found is not None
    basis, nothing = found
    assert basis is not None
    assert nothing is None
    assert float((basis[:, 0] @ way).abs() / way.norm()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("omega", Omega)
def test_meetings_with_own_test_matrices_keep_the_mean_and_bring_replicas_together(omega: Omega) -> None:
    """Whatever the initiator chooses to look at, C is the same on both ends."""
    pair = Pair(tiny_manifest(tiny_meeting(omega=omega.value, dtype="fp32", exp_avg_sq_codec="ab")))
    for _ in range(3):
        pair.step(2)
        mean, gap = means(pair.i, pair.j, Stream.PARAMS), distance(pair.i.theta, pair.j.theta)

        pair.meet(Stream.PARAMS, Stream.EXP_AVG_SQ)

        assert distance(means(pair.i, pair.j, Stream.PARAMS), mean) < 1e-6 * gap
        assert distance(pair.i.theta, pair.j.theta) < gap
