"""Sizes of payloads, counted by hand, and plans that cannot be carried out."""

import pytest

from lowcomm_node.algo.sizes import check_plan, hadamard_order, padded_count, part_bytes
from lowcomm_node.units import Codec, Dtype, Omega
from tests.algo.swarm_of_tensors import SHAPES, make_plan


@pytest.mark.parametrize(
    ("dtype", "omega", "expected"),
    [
        (Dtype.FP32, Omega.SEEDED, (4 * 200, 4 * 300, 4 * 100)),
        (Dtype.BF16, Omega.SEEDED, (2 * 200, 2 * 300 + 4, 1 + 2 * 100)),
        (Dtype.INT8, Omega.SEEDED, (4 + 200, 2 * 4 + 200 + 100 + 4, 1 + 2 * 2 + 100)),
        (Dtype.INT4, Omega.SEEDED, (4 + 200, 2 * 4 + 100 + 100 + 4, 1 + 2 * 2 + 50)),
        (Dtype.FP32, Omega.CACHED, (4 * 300, 4 * 300, 4 * 100)),
        (Dtype.INT4, Omega.CACHED, (4 + 2 * 2 + 50 + 200, 2 * 4 + 100 + 100 + 4, 1 + 2 * 2 + 50)),
    ],
)
def test_low_rank(dtype: Dtype, omega: Omega, expected: tuple[int, int, int]) -> None:
    """Two directions of a 100 x 50 matrix: the offer, the answer and the close."""
    sizes = part_bytes([(100, 5, 10)], make_plan((2,), dtype=dtype, omega=omega))

    assert (sizes.offer, sizes.answer, sizes.close) == expected


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (Dtype.FP32, (400, 400, 0)),
        (Dtype.BF16, (200, 200, 0)),
        (Dtype.INT8, (4 + 4 + 100, 1 + 2 * 2 + 100, 0)),
        (Dtype.INT4, (4 + 4 + 50, 1 + 2 * 2 + 50, 0)),
    ],
)
def test_whole_and_sparse(dtype: Dtype, expected: tuple[int, int, int]) -> None:
    """A hundred numbers cost the same whether they are a tensor or a tenth of one."""
    for shape, rank, codec in (((100,), -1, Codec.DENSE), ((10, 100), 100, Codec.SPARSE)):
        sizes = part_bytes([shape], make_plan((rank,), codec=codec, dtype=dtype))

        assert (sizes.offer, sizes.answer, sizes.close) == expected


@pytest.mark.parametrize(
    ("numel", "order", "total"),
    [
        (0, 1, 0),
        (5, 1, 5),
        (31, 1, 31),
        (64, 64, 64),
        (96, 32, 96),
        (997, 512, 1024),
        (10_752, 512, 10_752),
        (16_384, 16_384, 16_384),
        (1_000_003, 32_768, 1_015_808),
        (10**8, 32_768, 100_007_936),
    ],
)
def test_rotated_sizes(numel: int, order: int, total: int) -> None:
    """As many rows as a power of two allows with at most a 32nd of zeros; integers are sent of the padded tensor."""
    assert (hadamard_order(numel), padded_count(numel)) == (order, total)
    sizes = part_bytes([(numel,)], make_plan((-1,), dtype=Dtype.INT4))
    assert sizes.offer == 8 + (total + 1) // 2
    assert part_bytes([(numel,)], make_plan((-1,), dtype=Dtype.BF16)).offer == 2 * numel


@pytest.mark.parametrize(
    ("ranks", "codec", "text"),
    [
        ((1, -1, 1, 1), Codec.AB, "4 ranks for 5 tensors"),
        ((10, -1, 1, 1, -1), Codec.AB, "tensor 0 .*above min"),
        ((1, 1, 1, 1, -1), Codec.AB, "tensor 1 .*vector"),
        ((1, -1, 1, 1, 1), Codec.AB, "tensor 4 .*vector"),
        ((-2, -1, 1, 1, -1), Codec.AB, "tensor 0 .*ranks are"),
        ((1, -1, -1, -1, -1), Codec.DENSE, "codec dense has no low rank"),
        ((1, 6, 1, 1, 1), Codec.SPARSE, "tensor 1 .*above the 5 numbers"),
        ((1, -1, 1, 1, -1), Codec.RANK1, "codec rank1"),
    ],
)
def test_impossible_plans_are_refused(ranks: tuple[int, ...], codec: Codec, text: str) -> None:
    """Each plan that cannot be carried out is refused with its reason, before anything is computed."""
    with pytest.raises(ValueError, match=text):
        check_plan(SHAPES, make_plan(ranks, codec=codec))


@pytest.mark.parametrize("codec", [Codec.DENSE, Codec.SPARSE])
def test_only_low_rank_has_a_test_matrix(codec: Codec) -> None:
    """A plan that names a source of one without using any is not of this protocol."""
    with pytest.raises(ValueError, match="no test matrix to be cached"):
        check_plan(SHAPES, make_plan((-1,) * 5, codec=codec, omega=Omega.CACHED))
