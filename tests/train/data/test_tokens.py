"""Windows of token ids."""

import pytest
import torch

from lowcomm_node.errors import DataError
from lowcomm_node.train.data.tokens import Tokens


def _ids(first: int, count: int, dtype: torch.dtype = torch.uint16) -> torch.Tensor:
    return torch.arange(first, first + count).to(dtype)


def test_windows_lie_within_parts() -> None:
    """All windows of all parts, none that reaches from one part into the next; parts that are too short give none."""
    tokens = Tokens(_ids(0, 6), _ids(100, 3), _ids(200, 5, torch.uint32), vocab_size=1000)

    count = tokens.num_windows(4)
    windows = tokens.windows(range(count), 4)

    assert windows.dtype == torch.int64
    assert windows[:, 0].tolist() == [0, 1, 2, 200, 201]
    assert torch.equal(windows, windows[:, :1] + torch.arange(4))
    assert len(tokens) == 14


def test_ids_above_the_vocabulary_name_their_part() -> None:
    """The window is refused that holds the first id the model has no embedding for, not the one below."""
    tokens = Tokens(_ids(0, 9), _ids(60, 9), vocab_size=65, names=["a.bin", "b.bin"])

    assert tokens.windows([5], 5)[0, 0] == 60
    with pytest.raises(DataError, match=r"b\.bin: holds token 65, but model\.vocab_size = 65"):
        tokens.windows([6], 5)
    with pytest.raises(DataError, match=r"b\.bin: holds token 68"):
        tokens.check_beginnings()


def test_nothing_has_no_windows() -> None:
    """Neither no part nor empty ones."""
    assert Tokens().num_windows(3) == 0
    assert Tokens(_ids(0, 0)).num_windows(3) == 0
