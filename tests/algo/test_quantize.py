"""Integers on the wire: near the plain forms, exact where exactness is promised, and portable to the last bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.algo.omega import rademacher
from lowcomm_node.algo.quantize import (
    decode_blocks,
    encode_blocks,
    is_wrapped,
    lattice,
    pack,
    reference_blocks,
    reference_wrapped_difference,
    shrink,
    signed_sum,
    unpack,
    wrap,
)
from lowcomm_node.units import Dtype

_INTEGERS = (Dtype.INT8, Dtype.INT4)
_SEED = bytes(range(32))


def test_golden_packing() -> None:
    """Two to a byte, low nibble first, two's complement, little-endian; the wire contract, written out."""
    integers = torch.tensor([1, -1, 7, -8, 3])

    assert pack(integers, 4).hex() == "f18703"
    assert pack(integers, 8).hex() == "01ff07f803"
    assert pack(integers, 16).hex() == "0100ffff0700f8ff0300"


def test_golden_blocks() -> None:
    """bf16 scales first, then the integers: 70 numbers make two blocks."""
    numbers = torch.cat([torch.full((64,), 7.0), torch.full((6,), -0.5)])

    assert encode_blocks(numbers.unsqueeze(0), Dtype.INT4)[0].hex() == "803f" + "933d" + "77" * 32 + "999999"
    assert encode_blocks(numbers[:2].unsqueeze(0), Dtype.INT8)[0].hex() == "623d" + "7f7f"


def test_golden_lattice() -> None:
    """Halves go to the even neighbour, far weights keep all their bits, and low bits are what travels."""
    weights = torch.tensor([0.5, 1.5, -2.5, 1e6, 12345.678])

    assert lattice(weights, 1.0).tolist() == [0, 2, -2, 1_000_000, 12346]
    assert lattice(weights[3:], 1e-6).tolist() == [1_000_000_000_000, 12345677734]
    assert pack(lattice(weights, 1.0), 8).hex() == "0002fe403a"


@given(bits=st.sampled_from([4, 8, 16]), count=st.integers(0, 40), seed=st.integers(0, 1000))
def test_packing_keeps_the_low_bits(bits: int, count: int, seed: int) -> None:
    """Whatever the integers, their representatives modulo 2^bits come back."""
    integers = torch.randint(-(2**40), 2**40, (count,), generator=torch.Generator().manual_seed(seed))

    assert torch.equal(unpack(pack(integers, bits), count, bits), wrap(integers, bits))


@given(bits=st.sampled_from([4, 8, 16, 32]), value=st.integers(-(2**50), 2**50))
def test_wrap_is_the_nearest_representative(bits: int, value: int) -> None:
    """Congruent, and in [-2^(bits - 1), 2^(bits - 1))."""
    wrapped = int(wrap(torch.tensor(value), bits))

    assert (wrapped - value) % 2**bits == 0
    assert -(2 ** (bits - 1)) <= wrapped < 2 ** (bits - 1)


@given(
    dtype=st.sampled_from(_INTEGERS), count=st.integers(1, 200), seed=st.integers(0, 1000), scale=st.floats(1e-20, 1e20)
)
def test_blocks_match_the_plain_form(dtype: Dtype, count: int, seed: int, scale: float) -> None:
    """Within one part in 128 of a level, the rounding of the scale, plus a level where that moves a number across a half."""
    numbers = scale * torch.randn(count, generator=torch.Generator().manual_seed(seed))
    levels = 2 ** (dtype.bits - 1) - 1

    back = decode_blocks(encode_blocks(numbers.unsqueeze(0), dtype), count, dtype)[0].double()

    for block, ours, plain in zip(
        numbers.split(64), back.split(64), reference_blocks(numbers, levels).split(64), strict=True
    ):
        level = float(block.abs().max()) / levels
        assert float((ours - block).abs().max()) <= 0.505 * level
        assert float((ours - plain).abs().max()) <= 1.02 * level


def test_outliers_stay_in_their_block() -> None:
    """One number that is a thousand times larger costs its 63 neighbours their bits, and nobody else."""
    numbers = torch.randn(256, generator=torch.Generator().manual_seed(3))
    numbers[70] = 1000.0

    error = (decode_blocks(encode_blocks(numbers.unsqueeze(0), Dtype.INT8), 256, Dtype.INT8)[0] - numbers).abs()

    assert float(error[64:128].max()) > 0.5
    assert float(torch.cat([error[:64], error[128:]]).max()) < 0.02


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", _INTEGERS)
def test_what_is_not_finite_is_seen(dtype: Dtype, bad: float) -> None:
    """A block with such a number decodes to NaN; zeros and numbers below any scale to 0."""
    numbers = torch.zeros(130)
    numbers[65] = bad
    numbers[129] = 1e-45

    back = decode_blocks(encode_blocks(numbers.unsqueeze(0), dtype), 130, dtype)[0]

    assert bool(back[64:128].isnan().all())
    assert bool((back[:64] == 0).all())
    assert float(back[129]) == 0.0


@given(
    bits=st.sampled_from([4, 8, 16]), seed=st.integers(0, 1000), distance=st.floats(0, 100), step=st.floats(1e-4, 1e2)
)
def test_wrapped_difference_matches_the_plain_form(bits: int, seed: int, distance: float, step: float) -> None:
    """Bit for bit in fp64, near or far; and where it fits, within one step of the true difference."""
    generator = torch.Generator().manual_seed(seed)
    x = 1000 * torch.randn(50, generator=generator)
    y = x + distance * step * torch.randn(50, generator=generator)

    low_x, low_y = (unpack(pack(lattice(z, step), bits), 50, bits) for z in (x, y))
    difference = wrap(low_x - low_y, bits).double() * step

    assert torch.equal(difference, reference_wrapped_difference(x, y, step, bits))
    true = x.double() - y.double()
    fits = true.abs() < (2 ** (bits - 1) - 1) * step
    assert float((difference - true)[fits].abs().max() if fits.any() else 0.0) <= step * (1 + 1e-9)


def test_sums_tell_what_wrapped() -> None:
    """Differences that fit are never doubted; of a hundred where some do not, the first that matters is seen."""
    generator = torch.Generator().manual_seed(5)
    signs = rademacher(_SEED, 0, 400, 1).reshape(-1)
    ours = torch.randint(-(2**30), 2**30, (400,), generator=generator)
    near = ours + torch.randint(-100, 100, (400,), generator=generator)
    far = ours + torch.randint(-5000, 5000, (400,), generator=generator)

    def doubted(theirs: torch.Tensor) -> bool:
        return is_wrapped(ours, wrap(ours - theirs, 8), signs, signed_sum(theirs, signs))

    assert not doubted(near)
    assert not doubted(ours)
    assert doubted(far)


def test_one_outlier_in_many_is_let_pass() -> None:
    """A wrapped number that is little beside the rest does not make the tensor void; alone it does."""
    signs = rademacher(_SEED, 0, 5000, 1).reshape(-1)
    theirs = torch.randint(-40, 41, (5000,), generator=torch.Generator().manual_seed(6))
    theirs[0] = 200
    ours = torch.zeros(5000, dtype=torch.int64)

    def doubted(count: int) -> bool:
        difference = wrap(ours - theirs, 8)[:count]
        return is_wrapped(ours[:count], difference, signs[:count], signed_sum(theirs[:count], signs[:count]))

    assert not doubted(5000)
    assert doubted(1)


def test_shrinking_takes_noise_for_noise() -> None:
    """A difference far above the noise stays; one that is noise alone goes to 0; slice by slice where asked; 0 stays 0."""
    large, small = torch.full((4,), 10.0).double(), torch.full((4,), 0.1).double()

    assert float(shrink(large, 0.04)[0]) == pytest.approx(10.0, rel=1e-3)
    assert bool((shrink(small, 1.0) == 0).all())
    both = shrink(torch.stack([large, small], 1), 1.0, dim=0)
    assert float(both[0, 0]) > 9.0
    assert float(both[0, 1]) == 0.0
    assert bool((shrink(torch.zeros(3).double(), 1.0) == 0).all())
    assert bool((shrink(torch.zeros(3).double(), 0.0) == 0).all())


def test_wrong_lengths_are_refused() -> None:
    """Too short and too long are ValueErrors."""
    with pytest.raises(ValueError, match="payload of 3 bytes where 70 numbers in int4 take 39"):
        decode_blocks((bytes(3),), 70, Dtype.INT4)
    with pytest.raises(ValueError, match="payload of 3 bytes where 7 integers of 4 bits"):
        unpack(bytes(3), 7, 4)
