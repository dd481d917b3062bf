"""Fingerprints of states that were really trained: members that meet take each other's state, and no poisoned one."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lowcomm_node.algo.consensus import count_sketch
from lowcomm_node.core.fingerprint import Fingerprint, StateFault, find_misfit
from lowcomm_node.settings.manifest import Manifest, OptimizerConfig
from lowcomm_node.train.fingerprint import fingerprint_of
from lowcomm_node.train.state_file import TrainingState
from tests.train.pairs import Pair, tiny_manifest, tiny_session, train

_TOTAL_STEPS = 200


class Members:
    """Two pairs whose members have met, and the initial weights."""

    def __init__(self, manifest: Manifest, steps: int) -> None:
        self.initial = tiny_session(manifest).replica.state()
        self.initial_sketch = fingerprint_of(self.initial).sketch
        pairs = [Pair(manifest, head_start) for head_start in (0, 7)]  # or the second would do what the first does
        for _ in range(steps // 5):
            for pair in pairs:
                pair.step(5)
                pair.meet(*pair.i.streams[:1])
        self.states = [replica.state() for pair in pairs for replica in (pair.i, pair.j)]
        self.others = [fingerprint_of(state) for state in self.states[1:]]

    def fault(self, state: TrainingState) -> StateFault | None:
        found = find_misfit(fingerprint_of(state), self.others, self.initial_sketch, _TOTAL_STEPS)
        return None if found is None else found.fault


@pytest.fixture(scope="module", params=["adamw", "muon"])
def members(request: pytest.FixtureRequest) -> Members:
    optimizer = OptimizerConfig(kind=request.param, lr=1e-2)
    return Members(tiny_manifest(optimizer=optimizer, total_steps=_TOTAL_STEPS), 30)


def changed(state: TrainingState, groups: str, change: Callable[[torch.Tensor], torch.Tensor]) -> TrainingState:
    """The state with all tensors of these groups changed."""
    tensors = {
        key: change(tensor) if key.partition("/")[0] in groups.split() else tensor
        for key, tensor in state.tensors.items()
    }
    return replace(state, tensors=tensors)


def test_members_take_each_others_state(members: Members) -> None:
    """Weights that have drifted apart between meetings are what a run is made of."""
    assert members.fault(members.states[0]) is None


@pytest.mark.parametrize(
    ("groups", "change", "fault"),
    [
        ("params slow", torch.neg, StateFault.DISTANCE),
        ("params slow", lambda tensor: 3 * tensor, None),
        ("params slow", torch.randn_like, None),
        ("slow", torch.neg, StateFault.NORM),
        ("outer_momentum", lambda tensor: 1e3 * tensor + 1, StateFault.NORM),
        ("exp_avg", lambda tensor: 1e3 * tensor, StateFault.NORM),
        ("exp_avg_sq", torch.zeros_like, StateFault.NORM),
    ],
)
def test_a_poisoned_state_is_refused(
    members: Members, groups: str, change: Callable[[torch.Tensor], torch.Tensor], fault: StateFault | None
) -> None:
    """Other sign, size or noise in any part of the state; where two checks see it, either may say so."""
    found = members.fault(changed(members.states[0], groups, change))

    assert found is fault if fault is not None else found in (StateFault.DISTANCE, StateFault.NORM)


def test_initial_weights_are_refused_whatever_their_donor_says_of_its_progress(members: Members) -> None:
    """A node that was started again by mistake, or lies."""
    boasting = replace(members.initial, counters=members.states[0].counters)

    assert members.fault(boasting) is StateFault.INITIAL
    assert members.fault(members.initial) is StateFault.PROGRESS


def test_a_fingerprint_is_the_same_for_the_same_state() -> None:
    """Sketch of the weights in their order, norms by group."""
    session = tiny_session(tiny_manifest())
    train(session, 3)
    replica = session.replica

    fingerprint = fingerprint_of(replica.state())

    assert fingerprint.sketch == tuple(count_sketch(replica.theta).tolist())
    norms = dict(fingerprint.norms)
    assert norms["params"] == pytest.approx(sum(float(theta.square().sum()) for theta in replica.theta) ** 0.5)
    moved = sum(float((a - b).square().sum()) for a, b in zip(replica.theta, replica.phi, strict=True)) ** 0.5
    assert norms["displacement"] == pytest.approx(moved)
    assert isinstance(fingerprint, Fingerprint)
