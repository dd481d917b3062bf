"""Is a downloaded state one that this run's members could have? Compared by fingerprints: progress, sketch, norms.

A fingerprint is a count sketch of the parameters (``algo.consensus``), the norm of each group of state, and the progress
at which it was taken. Sketches are linear and keep distances to about a fifth, so the distance of a donor's weights
from the others' can be told from 64 numbers of each.

With p, x the donor's progress and sketch, p_i, s_i those of n >= 2 other members, and s_0 the sketch of the run's initial
weights:

    p_c = median p_i        c = median s_i (per coordinate)        d_i = |s_i - c|        m = median |s_i - s_0|

    progress    |p - p_c|  >  p_c / 2 + total_steps / 20
    initial     |x - s_0|  <  m / 4 * min(1, p / p_c)^2
    distance    |x - c|    >  max(2 * sqrt((n + 1) / (n - 1)) * (median d_i + 3 * 1.4826 * MAD d_i), |c| / 10)
                              + 2 * m / p_c * |p - p_c|
    norm        ln(norm / median of the others')  beyond  ln f or 5 * 1.4826 * MAD of their logarithms

*initial*: at the start the learning rate rises linearly, and weights have moved by the square of the share of steps.
*distance*: the root is how much further from the middle of n others a further one lies than they do themselves; the last
term is what weights may have moved between fingerprints that were not taken at the same progress. While the others have
hardly begun (p_c below a twentieth of the run) weights move by their own size within few steps and there is no pace to go
by: then only |x - c| > 1.2 * max(|x|, |c|) is too far, which no movement away from c reaches but another sign does.
*norm*: f is 1.5 for weights and 10 for optimizer state, which follows single gradients; only weights and second moments can
be too small. The displacement may be 1.2 times the weights' norm, or 1.5 times the others' median. Medians keep a minority of false references from deciding; with n = 2 a single one can make the limits wide,
never narrow.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

__all__ = ["DISPLACEMENT", "MIN_REFERENCES", "Fingerprint", "Misfit", "StateFault", "find_misfit"]

MIN_REFERENCES = 2
"""Fewer other members than that cannot say what is usual."""

DISPLACEMENT = "displacement"
"""The group of fast weights minus slow weights: what the next outer step works on."""

_SIGMA = 1.4826
"""MAD times this estimates the standard deviation of what is normally distributed."""
_YOUNG_RATIO = 1 / 20
_PROGRESS_RATIO = 1 / 2
_INITIAL_RATIO = 1 / 4
_SPREADS = 2.0
_NORM_RATIO = 1 / 10
_PACES = 2.0
_YOUNG_NORM_RATIO = 1.2

_WEIGHTS = ("params", "slow")
_WEIGHTS_FACTOR = 1.5
_SECOND_MOMENT = "exp_avg_sq"
_FACTOR = 10.0
_LARGEST_EXPONENT = 700.0
"""Norms that others claim must not overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What a state looks like from afar."""

    progress_steps: float
    """Swarm progress when it was taken."""
    sketch: tuple[float, ...]
    """Count sketch of the parameters."""
    norms: tuple[tuple[str, float], ...]
    """Frobenius norm of each group of state by name, ``DISPLACEMENT`` among them."""


class StateFault(StrEnum):
    """What a state differs in from those of the others."""

    PROGRESS = "progress"
    INITIAL = "initial"
    DISTANCE = "distance"
    NORM = "norm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Why a state is not taken."""

    fault: StateFault
    detail: str


def find_misfit(
    state: Fingerprint, others: Sequence[Fingerprint], initial_sketch: Sequence[float], total_steps: int
) -> Misfit | None:
    """The first thing in which ``state`` differs too much from ``others``; None when it fits.

    References whose sketch has another length than the state's are left out; with fewer than ``MIN_REFERENCES`` of them
    everything fits. All numbers must be finite (the reader of fingerprints has seen to it).
    """
    others = [other for other in others if len(other.sketch) == len(state.sketch)]
    if len(others) < MIN_REFERENCES:
        return None
    return (
        _progress_misfit(state, others, total_steps)
        or _initial_misfit(state, others, initial_sketch)
        or _distance_misfit(state, others, initial_sketch, total_steps)
        or _norm_misfit(state, others)
    )


def _progress_misfit(state: Fingerprint, others: Sequence[Fingerprint], total_steps: int) -> Misfit | None:
    usual = _usual_progress(others)
    if abs(state.progress_steps - usual) <= _PROGRESS_RATIO * usual + _YOUNG_RATIO * total_steps:
        return None
    detail = f"progress {state.progress_steps:.0f} steps, where {len(others)} others are at {usual:.0f}"
    return Misfit(fault=StateFault.PROGRESS, detail=detail)


def _initial_misfit(state: Fingerprint, others: Sequence[Fingerprint], initial: Sequence[float]) -> Misfit | None:
    usual = _usual_progress(others)
    if not usual or len(initial) != len(state.sketch):
        return None
    moved = _usual_movement(others, initial)
    own = math.dist(state.sketch, initial)
    if own >= _INITIAL_RATIO * moved * min(1.0, state.progress_steps / usual) ** 2:
        return None
    detail = f"weights {own:.3g} from the run's initial ones, where {len(others)} others are {moved:.3g} away"
    return Misfit(fault=StateFault.INITIAL, detail=detail)


def _distance_misfit(
    state: Fingerprint, others: Sequence[Fingerprint], initial: Sequence[float], total_steps: int
) -> Misfit | None:
    center, usual = _center(others), _usual_progress(others)
    distance, size = math.dist(state.sketch, center), math.hypot(*center)
    if usual < _YOUNG_RATIO * total_steps:
        limit = _YOUNG_NORM_RATIO * max(size, math.hypot(*state.sketch))
    else:
        pace = _usual_movement(others, initial) / usual if len(initial) == len(center) else 0.0
        meanwhile = _PACES * pace * abs(state.progress_steps - usual)
        limit = max(_SPREADS * _spread(others), _NORM_RATIO * size) + meanwhile
    if distance <= limit:
        return None
    detail = f"weights {distance:.3g} from the middle of {len(others)} others, more than {limit:.3g}"
    return Misfit(fault=StateFault.DISTANCE, detail=detail)


def _norm_misfit(state: Fingerprint, others: Sequence[Fingerprint]) -> Misfit | None:
    own = dict(state.norms)
    weights = own.get(_WEIGHTS[0], 0.0)
    # A limit of its own: it is 0 after an outer step, and grows until the next one; in a run without outer steps it grows for
    # ever, beyond the weights' own size, and with everybody alike.
    usual_displacement = median(dict(other.norms).get(DISPLACEMENT, 0.0) for other in others)
    far = max(_YOUNG_NORM_RATIO * max(weights, own.get("slow", 0.0)), _WEIGHTS_FACTOR * usual_displacement)
    if own.get(DISPLACEMENT, 0.0) > far:
        detail = f"slow weights {own[DISPLACEMENT]:.3g} from weights of norm {weights:.3g}"
        return Misfit(fault=StateFault.NORM, detail=detail)
    for group, norm in state.norms:
        theirs = [norms[group] for norms in map(dict, (other.norms for other in others)) if group in norms]
        if group == DISPLACEMENT or len(theirs) < MIN_REFERENCES:
            continue
        usual = median(theirs) or weights  # before the first outer step there is no momentum to compare with
        factor = _WEIGHTS_FACTOR if group in _WEIGHTS else _FACTOR
        widest = 5 * _SIGMA * _mad(math.log(one) for one in theirs if one > 0)
        ratio = math.exp(min(max(math.log(factor), widest), _LARGEST_EXPONENT))
        is_too_small = group in (*_WEIGHTS, _SECOND_MOMENT) and norm * ratio < median(theirs)
        if norm > ratio * usual or is_too_small:
            detail = f"{group} of norm {norm:.3g}, where {len(theirs)} others have {usual:.3g}"
            return Misfit(fault=StateFault.NORM, detail=detail)
    return None


def _usual_progress(others: Sequence[Fingerprint]) -> float:
    return median(other.progress_steps for other in others)


def _center(others: Sequence[Fingerprint]) -> list[float]:
    return [median(coordinate) for coordinate in zip(*(other.sketch for other in others), strict=True)]


def _usual_movement(others: Sequence[Fingerprint], initial: Sequence[float]) -> float:
    return median(math.dist(other.sketch, initial) for other in others)


def _spread(others: Sequence[Fingerprint]) -> float:
    """How far from the middle of the others one more of their kind may well lie."""
    center = _center(others)
    distances = [math.dist(other.sketch, center) for other in others]
    outside = math.sqrt((len(others) + 1) / (len(others) - 1))
    return outside * (median(distances) + 3 * _SIGMA * _mad(distances))


def _mad(numbers: Iterable[float]) -> float:
    """Median absolute deviation from the median; 0 of nothing."""
    numbers = list(numbers)
    if not numbers:
        return 0.0
    middle = median(numbers)
    return median(abs(number - middle) for number in numbers)
