"""Clipped gossip: the mean is kept, both bounds hold, and the bound follows the honest majority."""

import math
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.algo.clipping import ClipNorms, clip_scale, reference_clipped_pair
from lowcomm_node.units import Codec, Factor, Stream

_KEY = (Stream.PARAMS, Codec.AB)
_RATIO = 4.0
_ROUNDING = 1e-12

bounds = st.floats(1e-6, 1e6) | st.just(math.inf)


def norms_of(observed: list[float], ratio: float = _RATIO) -> ClipNorms:
    norms = ClipNorms(ratio)
    for norm in observed:
        norms.observe(*_KEY, norm)
    return norms


@given(st.integers(0, 2**32), st.floats(1e-3, 1e3), bounds, bounds, st.floats(0.01, 1.0))
def test_fast_form_equals_the_reference(seed: int, size: float, tau_i: float, tau_j: float, weight: float) -> None:
    """-w s C on one end and +w s C on the other is the clipped exchange of the paper, clipped by both ends."""
    generator = torch.Generator().manual_seed(seed)
    x_i, x_j = (size * torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    correction = x_i - x_j

    scale = clip_scale(float(correction.norm()), tau_i, tau_j)
    new_i, new_j = x_i - weight * scale * correction, x_j + weight * scale * correction

    expected_i, expected_j = reference_clipped_pair(x_i, x_j, tau_i=tau_i, tau_j=tau_j, weight=weight)
    assert float((new_i - expected_i).norm() + (new_j - expected_j).norm()) <= _ROUNDING * size
    assert float((expected_i + expected_j - x_i - x_j).norm()) <= _ROUNDING * size
    assert float((expected_i - x_i).norm()) <= weight * min(tau_i, tau_j) + _ROUNDING * size


@given(st.floats(0.0, 1e38), bounds, bounds)
def test_neither_end_is_moved_beyond_its_bound(norm: float, own: float, theirs: float) -> None:
    """s is a true scale, the same whoever computes it; s |C| is within both bounds, and C is untouched where it is anyway."""
    scale = clip_scale(norm, own, theirs)

    assert 0.0 < scale <= 1.0
    assert scale == clip_scale(norm, theirs, own)
    assert scale * norm <= min(own, theirs) * (1 + _ROUNDING)
    assert scale == 1.0 or norm > min(own, theirs)


def test_an_absurd_bound_still_gives_a_scale_that_can_be_sent() -> None:
    """The partner's bound divided by |C| may be too small for a number; 0 would be refused as malformed."""
    assert 0.0 < clip_scale(1e38, 1.0, 5e-324) < 1e-300


@given(
    st.lists(st.floats(0.5, 2.0), min_size=17, max_size=32),
    st.lists(st.floats(1e-30, 1e30), max_size=15),
    st.randoms(use_true_random=False),
)
def test_a_minority_cannot_move_the_bound_beyond_what_honest_meetings_have_shown(
    honest: list[float], hostile: list[float], random: Random
) -> None:
    """Whatever up to 15 of the last 32 meetings were like, tau is between the honest extremes times the ratio."""
    observed = honest[: 32 - len(hostile)] + hostile
    random.shuffle(observed)

    limit = norms_of([1.0] * 32 + observed).limit(*_KEY)

    assert _RATIO * min(honest) <= limit <= _RATIO * max(honest)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_growth_from_zero_is_followed_without_clipping(power: float) -> None:
    """Equal replicas that drift apart, with the square of time while the learning rate warms up: never clipped, at no time scale."""
    norms = norms_of([])
    for number in range(1, 300):
        norm = 1e-3 * number**power
        assert 1.5 * norm < norms.limit(*_KEY), number
        norms.observe(*_KEY, norm)


def test_steady_growth_and_decay_are_followed_without_clipping() -> None:
    """8% more per meeting, for ever, is honest growth; so is any fall."""
    norms, norm = norms_of([]), 1e-3
    for factor in [1.08] * 200 + [0.8] * 200:
        assert norm <= norms.limit(*_KEY)
        norms.observe(*_KEY, norm)
        norm *= factor


def test_a_new_level_is_believed_when_it_is_the_rule() -> None:
    """After a split of the swarm all differences are a hundred times larger: clipped at first, taken whole 17 meetings later."""
    norms = norms_of([1.0] * 64)
    scales: list[float] = []
    for _ in range(20):
        scales.append(clip_scale(100.0, norms.limit(*_KEY), math.inf))
        norms.observe(*_KEY, 100.0)

    assert scales[0] == 0.04
    assert scales[17:] == [1.0] * 3


@pytest.mark.parametrize(("observed", "ratio"), [([1.0] * 15, 4.0), ([1.0] * 64, 0.0), ([0.0] * 64, 4.0)])
def test_no_bound_before_anything_is_known(observed: list[float], ratio: float) -> None:
    """Fewer than sixteen meetings, clipping switched off, or nothing but equal replicas: any correction is taken whole."""
    assert norms_of(observed, ratio).limit(*_KEY) == math.inf


def test_streams_and_codecs_have_bounds_of_their_own() -> None:
    """Low-rank meetings bound what a whole tensor may differ by loosely, however often it was, and no stream decides for another."""
    norms = norms_of([1.0] * 16)

    assert norms.limit(*_KEY) == _RATIO
    assert norms.limit(Stream.PARAMS, Codec.DENSE) == 16 * _RATIO
    for norm in [3.0] * 16:
        norms.observe(Stream.PARAMS, Codec.DENSE, norm)
    assert norms.limit(Stream.PARAMS, Codec.DENSE) == 3 * _RATIO
    for norm in [1e6] * 64:
        norms.observe(Stream.PARAMS, Codec.DENSE, norm)
    assert norms.limit(Stream.PARAMS, Codec.DENSE) == 16 * _RATIO
    assert norms.limit(*_KEY) == _RATIO
    assert norms.limit(Stream.MOMENTUM, Codec.AB) == math.inf


def test_hostile_partner_in_a_swarm_of_numbers() -> None:
    """Fifteen honest nodes and one that always says a million: with clipping the honest ones stay where they were."""

    def worst(ratio: float) -> float:
        generator = torch.Generator().manual_seed(5)
        values = torch.randn(16, generator=generator, dtype=torch.float64)
        norms = [ClipNorms(ratio) for _ in range(16)]
        for number in range(1500):
            values[:15] += 0.1 * torch.randn(15, generator=generator, dtype=torch.float64)
            # The first rounds without it: before sixteen meetings nobody can tell who is far off.
            i, j = torch.randperm(15 if number < 300 else 16, generator=generator)[:2].tolist()
            if 15 in (i, j):
                values[15] = 1e6
            correction = float(values[i] - values[j])
            scale = clip_scale(abs(correction), norms[i].limit(*_KEY), norms[j].limit(*_KEY))
            for node, sign in ((i, -1), (j, 1)):
                norms[node].observe(*_KEY, abs(correction))
                values[node] += sign * 0.5 * scale * correction
        return float(values[:15].abs().max())

    assert worst(_RATIO) < 100.0
    assert worst(0.0) > 1e5


def test_what_was_seen_can_be_taken_to_the_next_life() -> None:
    """The limit is the same, and forgets as before; a norm that no meeting can have is refused."""
    before = ClipNorms(4.0)
    for norm in range(1, 101):
        before.observe(Stream.PARAMS, Codec.AB, float(norm))

    after = ClipNorms(4.0)
    after.recall(before.export())

    assert after.limit(Stream.PARAMS, Codec.AB) == before.limit(Stream.PARAMS, Codec.AB)
    assert after.export() == before.export()
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive and finite"):
            after.recall({"params ab": [1.0, bad]})
    assert after.export() == before.export()


def test_what_is_over_and_what_is_in_a_span_bound_loosely() -> None:
    """Each kind by its own median once that is known; until then 16 times looser by the others; in another process the same."""
    norms = ClipNorms(_RATIO)
    for _ in range(20):
        norms.observe(*_KEY, 1.0)
        norms.observe(Stream.PARAMS, Codec.DENSE, 0.5, Factor.A)

    norms.begin_anew(Stream.PARAMS)
    loose = norms.limit(*_KEY)
    for _ in range(20):
        norms.observe(*_KEY, 8.0)
    again = ClipNorms(_RATIO)
    again.recall(norms.export())

    assert loose == 16 * 0.5 * _RATIO
    for known in (norms, again):
        assert known.limit(*_KEY) == 8 * _RATIO
        assert known.limit(Stream.PARAMS, Codec.DENSE, Factor.A) == 0.5 * _RATIO
        assert known.limit(Stream.PARAMS, Codec.DENSE, Factor.B) == 16 * 0.5 * _RATIO
    with pytest.raises(ValueError, match="no span is called c"):
        again.recall({"params dense c": [1.0]})
