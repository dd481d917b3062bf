"""The correction as an object: applied with weights, measured through r x r problems, never multiplied out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.algo.correction import Coordinates, Correction, Factors, make_factors, whiten
from lowcomm_node.algo.rotation import Rotation
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


def test_coordinates_are_numbers_of_the_tensor() -> None:
    """Norm, spectra and finiteness of a part at some coordinates; applied to a transposed parameter it lands where it belongs."""
    part = Coordinates(torch.tensor([1, 5]), torch.tensor([3.0, 4.0]), 6)
    correction = Correction((part,))
    tensor = torch.zeros(3, 2).T

    correction.add_to_([tensor], 0.5)

    assert tensor.tolist() == [[0.0, 1.5, 0.0], [0.0, 0.0, 2.0]]
    assert correction.norm() == 5.0
    assert correction.spectra() == ((75.0,),)
    assert correction.is_finite()
    assert not Correction((Coordinates(part.index, torch.tensor([3.0, math.inf]), 6),)).is_finite()


def test_coordinates_of_a_rotated_tensor() -> None:
    """They keep the norm, become numbers of the tensor when applied, also of a transposed one, and numbers that would overflow there count as not finite."""
    rotation = Rotation(bytes(32), 0, 20)
    C = torch.randn(20, generator=torch.Generator().manual_seed(1))
    part = Coordinates(torch.arange(20), rotation.forward(C), rotation.total, rotation)
    tensor = torch.zeros(4, 5).T

    Correction((part,)).add_to_([tensor], 2.0)

    assert torch.allclose(tensor.reshape(-1), 2 * C, atol=1e-6)
    assert Correction((part,)).norm() == pytest.approx(float(C.norm()), rel=1e-6)
    assert Correction((part,)).is_finite()
    huge = Coordinates(part.index, torch.full((20,), 3e38), rotation.total, rotation)
    assert not Correction((huge,)).is_finite()
    half = Correction((Coordinates(part.index[:10], part.values[:10], 20, rotation),))
    assert half.spectra()[0] == pytest.approx((2 * half.norm() ** 2,))


def test_dependent_columns_do_not_explode() -> None:
    """A basis with a repeated column is singular; the ridge makes one of the two short, and C is still the projection."""
    column = torch.tensor([[1.0], [2.0], [2.0]])
    difference = torch.tensor([[1.0, 0.0], [2.0, 0.0], [2.0, 1.0]])

    Q = whiten(torch.cat([column, column], 1))
    factors = make_factors(Q, difference.T @ Q)

    unit = column / column.norm()
    assert torch.allclose(factors.a @ factors.b.T, unit @ unit.T @ difference, atol=1e-5)
    assert torch.all(Q.norm(dim=0) <= 1.0 + 1e-6)


@given(m=st.integers(1, 30), rank=st.integers(1, 8), seed=st.integers(0, 1000), scale=st.floats(1e-12, 1e12))
def test_whitening_is_the_regularised_projection(m: int, rank: int, seed: int, scale: float) -> None:
    """Q Q^T = a (a^T a + lambda I)^-1 a^T, written out in fp64, at any scale; where the rank is full, Q is orthonormal."""
    a = scale * torch.randn(m, rank, generator=torch.Generator().manual_seed(seed))

    Q = whiten(a).double()

    wide = a.double()
    gram = wide.T @ wide
    ridge = 1e-8 * gram.diagonal().sum() / rank * torch.eye(rank, dtype=torch.float64)
    assert torch.allclose(Q @ Q.T, wide @ torch.linalg.solve(gram + ridge, wide.T), atol=1e-5)
    if m >= 2 * rank:
        assert torch.allclose(Q.T @ Q, torch.eye(rank, dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_whitening_passes_on_what_is_not_finite(bad: float) -> None:
    """Zero stays zero, and a NaN or infinity makes all of Q NaN instead of an exception."""
    a = torch.ones(4, 2)
    a[1, 1] = bad

    assert bool(whiten(a).isnan().all())
    assert torch.equal(whiten(torch.zeros(4, 2)), torch.zeros(4, 2))
