"""Matrix views and the rank from which the whole matrix is cheaper."""

from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.algo.shapes import matrix_shape, max_paying_rank


def test_matrix_views() -> None:
    """Kernels are (out, rest); vectors and scalars have no low-rank form."""
    assert matrix_shape((8, 3, 5, 5)) == (8, 75)
    assert matrix_shape((4, 6)) == (4, 6)
    assert matrix_shape((7,)) is None
    assert matrix_shape(()) is None


@given(m=st.integers(1, 500), n=st.integers(1, 500))
def test_paying_rank_is_the_largest(m: int, n: int) -> None:
    """2 r (m + n) < m n holds at the rank and no longer at the next."""
    rank = max_paying_rank(m, n)

    assert rank == 0 or 2 * rank * (m + n) < m * n
    assert 2 * (rank + 1) * (m + n) >= m * n
    assert rank <= min(m, n)
