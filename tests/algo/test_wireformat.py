"""Bytes of tensors: exact, portable, and refused when they are not of the right length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.algo.sizes import difference_bytes
from lowcomm_node.algo.wireformat import (
    VALID,
    VOID,
    Reader,
    as_fp32,
    decode,
    decode_difference,
    encode,
    encode_check,
    encode_difference,
    encode_range,
    is_finite,
    read_check,
    read_flag,
    read_range,
)
from lowcomm_node.units import Dtype

_BF16_HALF_ULP = 2.0**-8
_FLOATS = (Dtype.FP32, Dtype.BF16)


def test_golden_bytes() -> None:
    """1.0 and -2.5 in little-endian fp32 and bf16; the wire contract, written out."""
    tensor = torch.tensor([1.0, -2.5])

    assert encode(tensor, Dtype.FP32).hex() == "0000803f000020c0"
    assert encode(tensor, Dtype.BF16).hex() == "803f20c0"


@given(shape=st.lists(st.integers(0, 5), max_size=3), dtype=st.sampled_from(_FLOATS), seed=st.integers(0, 1000))
def test_round_trip(shape: list[int], dtype: Dtype, seed: int) -> None:
    """Any shape comes back: fp32 to the last bit, bf16 to half a unit in the last place; the second trip is exact."""
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    payload = encode(tensor, dtype)
    back = decode(payload, shape, dtype)

    assert len(payload) == tensor.numel() * dtype.bits // 8
    assert back.shape == tensor.shape
    assert back.dtype == torch.float32
    if dtype is Dtype.FP32:
        assert torch.equal(back, tensor)
    else:
        assert torch.all((back - tensor).abs() <= _BF16_HALF_ULP * tensor.abs())
    assert encode(back, dtype) == payload


def test_strided_tensors_go_in_row_major_order() -> None:
    """A transposed view is sent as it reads, not as it lies in memory."""
    tensor = torch.arange(6.0).reshape(2, 3)

    assert encode(tensor.T, Dtype.FP32) == encode(tensor.T.contiguous(), Dtype.FP32)


def test_decoded_tensor_owns_its_memory() -> None:
    """Writing to it does not reach the payload, and a view of a larger buffer serves as payload."""
    payload = encode(torch.ones(4), Dtype.FP32)

    tensor = decode(memoryview(payload)[4:12], (2,), Dtype.FP32)
    tensor.zero_()

    assert torch.equal(decode(payload, (4,), Dtype.FP32), torch.ones(4))


@pytest.mark.parametrize("length", [0, 7, 9, 16])
def test_wrong_length_is_refused(length: int) -> None:
    """Too short and too long are ValueErrors that say both numbers."""
    with pytest.raises(ValueError, match=f"payload of {length} bytes.*8"):
        decode(bytes(length), (2,), Dtype.FP32)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_is_seen(bad: float) -> None:
    """NaN and infinities survive the trip in either type and are found."""
    tensor = torch.tensor([0.0, bad])

    for dtype in _FLOATS:
        assert not is_finite(decode(encode(tensor, dtype), (2,), dtype))
    assert is_finite(torch.zeros(3))


@given(shape=st.lists(st.integers(0, 20), max_size=2), dtype=st.sampled_from(Dtype), seed=st.integers(0, 1000))
def test_differences_keep_shape_and_size(shape: list[int], dtype: Dtype, seed: int) -> None:
    """In any format the bytes are as many as announced, the shape comes back, and no number is off by more than half a level of the largest."""
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    payload = encode_difference(tensor, dtype)
    back = decode_difference(payload, shape, dtype)

    assert len(payload) == difference_bytes(tensor.numel(), dtype)
    assert back.shape == tensor.shape
    if tensor.numel():
        level = {Dtype.INT4: 1 / 7, Dtype.INT8: 1 / 127}.get(dtype, 2 * _BF16_HALF_ULP)
        assert float((back - tensor).abs().max()) <= 0.51 * level * float(tensor.abs().max())


def test_fields_between_numbers() -> None:
    """Range, checksum and flag as bytes; the wire contract, written out."""
    assert encode_range(True, 0.5).hex() == "0000003f"
    assert encode_check(-2).hex() == "feffffff"
    assert (VALID.hex(), VOID.hex()) == ("00", "01")
    assert read_range(Reader(encode_range(True, 0.1), 4)) == as_fp32(0.1)
    assert read_check(Reader(encode_check(-(2**31)), 4)) == -(2**31)
    assert (read_flag(Reader(VALID, 1)), read_flag(Reader(VOID, 1))) == (False, True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_range_is_a_positive_number(bad: float) -> None:
    """Anything else is refused, as is what a node with weights that are not finite sends, and a flag of another value."""
    with pytest.raises(ValueError, match="not a positive number"):
        read_range(Reader(encode_range(True, bad), 4))
    with pytest.raises(ValueError, match="not a positive number"):
        read_range(Reader(encode_range(False, 1.0), 4))
    with pytest.raises(ValueError, match="flag 07"):
        read_flag(Reader(b"\x07", 1))
