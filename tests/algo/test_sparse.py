"""Coordinates of a sparse meeting: the same for everybody, each as likely as the next."""

import hashlib

import torch
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.algo.sparse import coordinates, select
from lowcomm_node.units import Codec, Dtype
from tests.algo.swarm_of_tensors import make_plan

_SEED = hashlib.sha256(b"golden").digest()


def test_golden_vector() -> None:
    """These positions are part of the protocol: another implementation must draw the same."""
    assert coordinates(_SEED, (3,), 1000, 8)[0].tolist() == _by_hand(_SEED, 3, 1000, 8)
    assert coordinates(_SEED, (3,), 1000, 8)[0].tolist() == [36, 220, 318, 397, 511, 725, 767, 892]


@given(total=st.integers(1, 5000), share=st.floats(0, 1), index=st.integers(0, 1000))
def test_as_written_out_with_the_standard_library(total: int, share: float, index: int) -> None:
    """As many as asked for, in rising order, none twice, all inside, and as the docstring says."""
    count = max(1, int(share * total))

    found = coordinates(_SEED, (index,), total, count)[0].tolist()

    assert found == _by_hand(_SEED, index, total, count)
    assert len(set(found)) == count
    assert found == sorted(found)
    assert found[0] >= 0
    assert found[-1] < total


def _by_hand(seed: bytes, index: int, total: int, count: int) -> list[int]:
    digest = hashlib.shake_256(seed + index.to_bytes(4, "little")).digest(4 * count)
    width, longer = divmod(total, count)
    found, start = [], 0
    for k in range(count):
        own_width = width + (k < longer)
        found.append(start + (int.from_bytes(digest[4 * k : 4 * k + 4], "little") * own_width >> 32))
        start += own_width
    return found


def test_integers_draw_among_all_coefficients() -> None:
    """Those that the zeros behind a tensor add hold energy too; floating point draws among the tensor's own numbers."""
    for dtype, total in ((Dtype.INT4, 1024), (Dtype.BF16, 997)):
        plan = make_plan((997,), codec=Codec.SPARSE, dtype=dtype)
        drawn = [next(select(((997,),), plan, meeting.to_bytes(32, "little"))) for meeting in range(50)]

        positions = torch.cat([selection.positions[0] for selection in drawn if selection.positions is not None])
        assert torch.equal(positions.unique(), torch.arange(total))


def test_every_coordinate_has_its_turn() -> None:
    """Over many meetings each position is drawn about as often as count / total says."""
    turns = torch.zeros(50)
    for meeting in range(600):
        turns[coordinates(meeting.to_bytes(32, "little"), (0,), 50, 7)[0]] += 1

    expected = 600 * 7 / 50
    assert float((turns - expected).abs().max()) < 5 * expected**0.5
