"""NoLoCo and DES-LOC as published are special cases of what nodes do: written out, on real replicas and through real meetings."""

import torch
from torch import Tensor

from lowcomm_node.algo.inner import reference_adamw_step
from lowcomm_node.algo.noloco import reference_pair_step
from lowcomm_node.settings.manifest import OptimizerConfig, OuterConfig
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


def test_dense_meetings_for_everything_at_each_step_are_synchronous_adam_on_averaged_states() -> None:
    """DES-LOC-Adam (2505.22549, Algorithm 2) with K_x = K_u = K_v = 1 and two workers.

    That is one x, u and v, stepped with the gradient of each and averaged. beta1 = beta2, because then
    |u^| <= sqrt(v^) holds by Jensen's inequality and the guard has nothing to do.
    """
    optimizer = OptimizerConfig(kind="adamw", lr=1e-2, beta1=0.95, beta2=0.95)
    meeting = tiny_meeting(codec="dense", dtype="fp32", exp_avg_sq_codec="dense")
    pair = Pair(tiny_manifest(meeting, OuterConfig(every_steps=0), optimizer), steps=0)
    streams = (Stream.PARAMS, Stream.EXP_AVG, Stream.EXP_AVG_SQ)
    states = [
        (theta.double(), torch.zeros_like(theta).double(), torch.zeros_like(theta).double()) for theta in pair.i.theta
    ]
    start = [x.clone() for x, _, _ in states]

    for t in range(1, 9):
        stepped: list[list[tuple[Tensor, Tensor, Tensor]]] = []
        for session in pair.sessions:
            replica = session.replica
            lr = replica.train_step(session.stream.batch(replica.data_cursor)).learning_rate
            gradients = [parameter.grad for parameter in replica.model.parameters() if parameter.grad is not None]
            stepped.append(
                [
                    reference_adamw_step(
                        x, g, u, v, t, lr=lr, beta1=0.95, beta2=0.95, eps=optimizer.eps,
                        wd=optimizer.weight_decay if x.ndim == 2 else 0.0,
                    )
                    for (x, u, v), g in zip(states, gradients, strict=True)
                ]
            )  # fmt: skip
        states = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2) for a, b in zip(*stepped, strict=True)]
        pair.meet(*streams)

        for replica in (pair.i, pair.j):
            for place, stream in enumerate(streams):
                for ours, theirs in zip(replica.tensors(stream), states, strict=True):
                    gap = float((ours.double() - theirs[place]).abs().max())
                    assert gap < 3 * _FP32_ROUNDING * float(theirs[place].abs().max()), (t, stream)

    way = max(float((x - first).abs().max()) for (x, _, _), first in zip(states, start, strict=True))
    assert way > 0.01
