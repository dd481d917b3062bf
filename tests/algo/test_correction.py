"""The correction as an object: applied with weights, measured through r x r problems, never multiplied out."""

import math

import pytest
import torch

from lowcomm_node.algo.correction import Correction, Factors, solve_factors
from tests.algo.swarm_of_tensors import SHAPES, make_plan, make_replica, materialise, meet


@pytest.fixture
def correction() -> Correction:
    generator = torch.Generator().manual_seed(21)
    return meet(make_replica(generator), make_replica(generator), make_plan((3, -1, 2, 0, -1))).initiator


def test_norm_is_that_of_the_product(correction: Correction) -> None:
    """|C| from the Gram matrices equals |C| written out."""
    whole = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in materialise(correction)))

    assert correction.norm() == pytest.approx(whole, rel=1e-5)


def test_spectra_are_squared_singular_values(correction: Correction) -> None:
    """Low rank: the r leading ones, in order; dense: |C|^2; left out: None."""
    written = materialise(correction)
    spectra = correction.spectra()

    for index, rank in ((0, 3), (2, 2)):
        expected = torch.linalg.svdvals(written[index].flatten(1))[:rank].square().tolist()
        assert spectra[index] == pytest.approx(expected, rel=1e-4)
    assert spectra[1] == pytest.approx((float(written[1].square().sum()),), rel=1e-5)
    assert spectra[3] is None


def test_weights_per_tensor(correction: Correction) -> None:
    """One weight each: tensor k gets weight_k C_k."""
    weights = [0.5, -1.0, 0.25, 3.0, 0.0]
    tensors = [torch.zeros(shape) for shape in SHAPES]

    correction.add_to_(tensors, weights)

    for tensor, weight, whole in zip(tensors, weights, materialise(correction), strict=True):
        assert torch.allclose(tensor, weight * whole, atol=1e-6)


def test_applies_to_transposed_parameters(correction: Correction) -> None:
    """A matrix that is a view of its transpose is changed in place as well."""
    tensors = [torch.zeros(shape) for shape in SHAPES]
    tensors[0] = torch.zeros(SHAPES[0][::-1]).T

    correction.add_to_(tensors, 1.0)

    assert torch.allclose(tensors[0], materialise(correction)[0], atol=1e-6)


def test_wrong_number_of_tensors_is_refused(correction: Correction) -> None:
    """A correction belongs to one list of tensors."""
    with pytest.raises(ValueError, match="4 tensors"):
        correction.add_to_([torch.zeros(shape) for shape in SHAPES[:4]], 1.0)
    with pytest.raises(ValueError, match="2 weights"):
        correction.add_to_([torch.zeros(shape) for shape in SHAPES], [1.0, 1.0])


def test_product_that_would_overflow_is_not_finite() -> None:
    """Finite factors whose product is beyond fp32 count as not finite: applying them would make infinities."""
    huge = torch.full((2, 1), 1e30)
    gram = huge.double().T @ huge.double()

    assert not Correction((Factors(huge, huge, gram, gram),)).is_finite()
    assert Correction((Factors(huge, torch.ones(2, 1), gram, torch.full((1, 1), 2.0).double()),)).is_finite()


def test_dependent_columns_do_not_explode() -> None:
    """A basis with a repeated column is singular; the ridge gives both half, and C is still the projection."""
    column = torch.tensor([[1.0], [2.0], [2.0]])
    difference = torch.tensor([[1.0, 0.0], [2.0, 0.0], [2.0, 1.0]])
    basis = torch.cat([column, column], 1)

    factors = solve_factors(basis, difference.T @ basis, 1e-8)

    unit = column / column.norm()
    assert torch.allclose(factors.a @ factors.b.T, unit @ unit.T @ difference, atol=1e-5)
