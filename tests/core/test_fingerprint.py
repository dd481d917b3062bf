"""Which states are taken, with swarms of vectors: honest spread is, what is poisoned or not of this stage of the run is not."""

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.fingerprint import DISPLACEMENT, Fingerprint, StateFault, find_misfit

_DIM = 64
_TOTAL_STEPS = 1000


def gaussian(random: Random, norm: float) -> list[float]:
    """A vector of about this norm."""
    return [random.gauss(0.0, norm / math.sqrt(_DIM)) for _ in range(_DIM)]


def add(*vectors: list[float]) -> list[float]:
    return [sum(parts) for parts in zip(*vectors, strict=True)]


class Swarm:
    """Sketches of members that have moved together from the initial weights, each a little on its own."""

    def __init__(self, seed: int, *, spread: float = 0.2, moved: float = 0.8, progress_steps: float = 500.0) -> None:
        self.random = Random(seed)
        self.initial = gaussian(self.random, 1.0)
        self.way = gaussian(self.random, moved)
        self.spread = spread
        self.progress_steps = progress_steps

    def sketch(self, share: float = 1.0) -> list[float]:
        """A member's weights after this share of the way."""
        moved = [share * number for number in self.way]
        return add(self.initial, moved, gaussian(self.random, share * self.spread))

    def member(self) -> Fingerprint:
        """An honest one."""
        random = self.random
        sketch = self.sketch()
        norm = math.hypot(*sketch) * random.uniform(0.95, 1.05)
        return Fingerprint(
            progress_steps=self.progress_steps + random.uniform(-10, 10),
            sketch=tuple(sketch),
            norms=(
                ("params", norm),
                ("slow", norm * random.uniform(0.95, 1.05)),
                ("outer_momentum", random.uniform(0.1, 0.4)),
                ("exp_avg", random.uniform(0.1, 0.4)),
                ("exp_avg_sq", random.uniform(0.001, 0.004)),
                (DISPLACEMENT, random.choice((0.0, 0.1))),
            ),
        )

    def misfit(self, state: Fingerprint, others: list[Fingerprint]) -> StateFault | None:
        found = find_misfit(state, others, self.initial, _TOTAL_STEPS)
        return None if found is None else found.fault


def with_norm(state: Fingerprint, group: str, norm: float) -> Fingerprint:
    return replace(state, norms=tuple({**dict(state.norms), group: norm}.items()))


@given(
    seed=st.integers(0, 2**32),
    num_others=st.integers(2, 6),
    spread=st.floats(0.0, 0.3),
    progress_steps=st.sampled_from((0.0, 1.0, 60.0, 500.0, 990.0)),
)
def test_an_honest_state_is_taken(seed: int, num_others: int, spread: float, progress_steps: float) -> None:
    """Whatever the spread, the number of members that were asked, and the stage of the run."""
    swarm = Swarm(seed, spread=spread, progress_steps=10.0 + progress_steps)
    state, *others = (swarm.member() for _ in range(num_others + 1))

    assert swarm.misfit(state, others) is None


def test_without_outer_steps_everybody_is_far_from_the_slow_weights() -> None:
    """A run of the defaults: weights leave the anchor for good, and a real swarm once refused all its donors for it."""
    run = Swarm(3)
    members = [with_norm(run.member(), DISPLACEMENT, 1.7 + 0.1 * number) for number in range(4)]

    assert [run.misfit(member, [other for other in members if other is not member]) for member in members] == [None] * 4
    far = with_norm(members[0], DISPLACEMENT, 4.0)
    assert run.misfit(far, members[1:]) is StateFault.NORM


def test_a_state_that_is_some_steps_ahead_is_taken() -> None:
    """Fingerprints are not taken at the same moment: weights may have moved meanwhile, at the pace of the run."""
    swarm = Swarm(1, spread=0.01)
    others = [swarm.member() for _ in range(5)]
    state = replace(swarm.member(), sketch=tuple(swarm.sketch(1.3)), progress_steps=650.0)

    assert swarm.misfit(state, others) is None


_POISON: dict[str, tuple[Callable[[Swarm, Fingerprint], Fingerprint], set[StateFault]]] = {
    "another sign": (
        lambda _, state: replace(state, sketch=tuple(-number for number in state.sketch)),
        {StateFault.DISTANCE},
    ),
    "twice the size": (
        lambda _, state: with_norm(state, "params", 2 * dict(state.norms)["params"]),
        {StateFault.NORM},
    ),
    "half the size": (
        lambda _, state: with_norm(state, "params", dict(state.norms)["params"] / 2.2),
        {StateFault.NORM},
    ),
    "random weights": (
        lambda swarm, state: replace(state, sketch=tuple(gaussian(swarm.random, math.hypot(*state.sketch)))),
        {StateFault.DISTANCE},
    ),
    "the initial weights": (lambda swarm, state: replace(state, sketch=tuple(swarm.initial)), {StateFault.INITIAL}),
    "the initial weights, said to be younger": (
        lambda swarm, state: replace(state, sketch=tuple(swarm.initial), progress_steps=300.0),
        {StateFault.INITIAL},
    ),
    "an old state": (
        lambda swarm, state: replace(state, sketch=tuple(swarm.sketch(0.3)), progress_steps=100.0),
        {StateFault.PROGRESS},
    ),
    "progress from the future": (lambda _, state: replace(state, progress_steps=999.0), {StateFault.PROGRESS}),
    "other slow weights": (lambda _, state: with_norm(state, DISPLACEMENT, 2.5), {StateFault.NORM}),
    "great momentum": (lambda _, state: with_norm(state, "exp_avg", 1e3), {StateFault.NORM}),
    "great outer momentum": (lambda _, state: with_norm(state, "outer_momentum", math.inf), {StateFault.NORM}),
    "no second moment": (lambda _, state: with_norm(state, "exp_avg_sq", 0.0), {StateFault.NORM}),
}


@pytest.mark.parametrize("name", _POISON)
@given(seed=st.integers(0, 2**32), num_others=st.integers(2, 6))
def test_what_no_honest_member_could_have_is_refused(name: str, seed: int, num_others: int) -> None:
    """For the right reason, whoever else was asked."""
    poison, faults = _POISON[name]
    swarm = Swarm(seed, spread=0.1)
    state, *others = (swarm.member() for _ in range(num_others + 1))

    assert swarm.misfit(poison(swarm, state), others) in faults


@given(seed=st.integers(0, 2**32), scale=st.sampled_from((-1.0, 0.0, 1e30)))
def test_two_false_references_of_five_neither_keep_out_nor_let_in(seed: int, scale: float) -> None:
    """Medians: the minority can say what it likes."""
    swarm = Swarm(seed, spread=0.1)
    state, *others = (swarm.member() for _ in range(6))
    for position in (0, 1):
        other = others[position]
        others[position] = replace(
            other,
            progress_steps=abs(scale) * other.progress_steps,
            sketch=tuple(scale * number for number in other.sketch),
            norms=tuple((group, abs(scale) * norm) for group, norm in other.norms),
        )

    flipped = replace(state, sketch=tuple(-number for number in state.sketch))

    assert swarm.misfit(state, others) is None
    assert swarm.misfit(flipped, others) is StateFault.DISTANCE


def test_while_a_run_begins_only_nonsense_is_refused() -> None:
    """Weights move by their own size in a few steps: a donor that is that far ahead is welcome, a flipped one is not."""
    swarm = Swarm(3, moved=1.5, progress_steps=0.0)
    others = [replace(swarm.member(), sketch=tuple(swarm.initial), progress_steps=0.0) for _ in range(3)]
    ahead = replace(swarm.member(), progress_steps=40.0)
    ahead = with_norm(
        with_norm(ahead, "params", dict(others[0].norms)["params"]), "slow", dict(others[0].norms)["slow"]
    )
    flipped = replace(ahead, sketch=tuple(-number for number in swarm.initial))

    assert swarm.misfit(ahead, others) is None
    assert swarm.misfit(flipped, others) is StateFault.DISTANCE


def test_one_other_member_cannot_say_what_is_usual() -> None:
    """Then everything that is finite is taken; so it is when the others' sketches are of another length."""
    swarm = Swarm(4)
    state, *others = (swarm.member() for _ in range(4))
    nonsense = replace(state, sketch=(1e30,) * _DIM)

    assert swarm.misfit(nonsense, others[:1]) is None
    assert swarm.misfit(nonsense, [replace(other, sketch=other.sketch[1:]) for other in others]) is None


_NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)
_ANY = st.builds(
    Fingerprint,
    progress_steps=st.floats(0, 1e12),
    sketch=st.lists(_NUMBERS, min_size=3, max_size=3).map(tuple),
    norms=st.dictionaries(st.sampled_from(("params", "slow", "exp_avg")), st.floats(0, 1e308)).map(
        lambda norms: tuple(norms.items())
    ),
)


@given(state=_ANY, others=st.lists(_ANY, max_size=5), initial=st.lists(_NUMBERS, max_size=3))
def test_any_numbers_give_a_decision(state: Fingerprint, others: list[Fingerprint], initial: list[float]) -> None:
    """What members claim must not break the joiner."""
    found = find_misfit(state, others, initial, 1000)

    assert found is None or found.detail
