"""NoLoCo as published is a special case of what nodes do: both written out, on a real replica and through real meetings."""

import torch
from torch import Tensor

from lowcomm_node.algo.noloco import reference_pair_step
from lowcomm_node.settings.manifest import OuterConfig
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Stream
from tests.train.pairs import Pair, tiny_manifest, tiny_meeting

_FP32_ROUNDING = 3e-6
_A, _B = 0.5, 0.7
_OUTER_STEPS, _INNER_STEPS = 5, 4


def _states(replica: Replica) -> list[tuple[Tensor, ...]]:
    """(theta, phi, delta) of each tensor, in fp64."""
    return [
        tuple(tensor.double() for tensor in state)
        for state in zip(replica.theta, replica.phi, replica.delta, strict=True)
    ]


def test_dense_meetings_at_the_outer_step_are_the_published_equations() -> None:
    """Mixing through the momentum, g = b, dense fp32, a meeting right before each outer step: Eq. 1-3, step after step.

    Inner steps are real ones; the reference takes over what they did to theta, and nothing else. The nodes begin with
    slow weights and momenta of their own: from equal ones they would stay equal, and half of the equations be idle.
    """
    # the meeting belongs between the last inner and the outer step, so the test takes the outer steps itself
    outer = OuterConfig(every_steps=0, momentum=_A, lr=_B, mixing_gain=_B, mixing="momentum")
    pair = Pair(tiny_manifest(tiny_meeting(codec="dense", dtype="fp32"), outer), steps=0)
    replicas = (pair.i, pair.j)
    generator = torch.Generator().manual_seed(1)
    for replica in replicas:
        for theta, phi, delta in zip(replica.theta, replica.phi, replica.delta, strict=True):
            phi.add_(torch.randn(phi.shape, generator=generator), alpha=0.05)
            delta.add_(torch.randn(phi.shape, generator=generator), alpha=0.01)
            theta.copy_(phi)
    references = [_states(replica) for replica in replicas]

    for _ in range(_OUTER_STEPS):
        before = [[theta.double() for theta in replica.theta] for replica in replicas]
        pair.step(_INNER_STEPS)
        drifted = [
            [
                (theta + (new.double() - old), phi, delta)
                for (theta, phi, delta), new, old in zip(reference, replica.theta, start, strict=True)
            ]
            for reference, replica, start in zip(references, replicas, before, strict=True)
        ]
        stepped = [reference_pair_step(*i, *j, a=_A, b=_B, g=_B) for i, j in zip(drifted[0], drifted[1], strict=True)]
        references = [[states[end] for states in stepped] for end in range(2)]

        pair.meet(Stream.PARAMS)
        for replica in replicas:
            replica._outer_step()

        for replica, reference in zip(replicas, references, strict=True):
            for ours, theirs in zip(_states(replica), reference, strict=True):
                for one, other in zip(ours, theirs, strict=True):
                    assert float((one - other).abs().max()) < _FP32_ROUNDING * max(1.0, float(other.abs().max()))

    spread = max(float((a - b).abs().max()) for a, b in zip(pair.i.theta, pair.j.theta, strict=True))
    momentum = max(float(delta.abs().max()) for delta in pair.i.delta)
    assert min(spread, momentum) > 1000 * _FP32_ROUNDING, "too little happened to tell the forms apart"
    assert not any(bool(mixed.any()) for replica in replicas for mixed in replica.mixed)
    assert torch.equal(pair.i.theta[0], pair.i.phi[0])
