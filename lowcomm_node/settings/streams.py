"""Which state streams an inner optimizer keeps, and how often each is exchanged: everything that depends on neither tensors nor network.

The optimizers in ``train.optimizers`` keep exactly these streams; periods, meetings, state files and metrics follow from them.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from lowcomm_node.settings.manifest import Manifest, MeetingConfig, OptimizerConfig
from lowcomm_node.units import Stream, StreamKind

__all__ = ["Period", "Scope", "StateStream", "half_life", "periods", "state_streams"]

_SHORTEST_DECAY = 0.95
"""A momentum that forgets faster than this is gone before the next meeting (DES-LOC 2505.22549: K_x of 16 and more)."""


class Scope(StrEnum):
    """The parameters that have a stream."""

    ALL = "all"
    MATRICES = "matrices"
    """Hidden matrices: 2-D, and neither embedding nor output head."""
    REST = "rest"
    """All but the hidden matrices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateStream:
    """One kind of state that an optimizer keeps, a tensor per parameter in its scope."""

    name: Stream
    kind: StreamKind
    decay: float
    """beta: what one step leaves of the past; 0 for a basis."""
    scope: Scope = Scope.ALL
    is_bias_corrected: bool = False
    """An average that starts at zero: nodes of different age compare value / (1 - beta^t)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """How often one stream is exchanged, and why."""

    stream: Stream
    every_steps: int
    """K in own steps; 0 is never."""
    reason: str


def state_streams(config: OptimizerConfig) -> tuple[StateStream, ...]:
    """The streams of the inner optimizer, in the order of state files; parameters themselves are not among them."""
    signed, beta1, beta2 = StreamKind.SIGNED, config.beta1, config.beta2
    match config.kind:
        case "adamw" | "mtdao":
            return _adam(config, Scope.ALL)
        case "adopt":
            return (
                StateStream(name=Stream.EXP_AVG, kind=signed, decay=beta1),
                StateStream(name=Stream.EXP_AVG_SQ, kind=StreamKind.NON_NEGATIVE, decay=beta2),
            )
        case "sgd":
            return (StateStream(name=Stream.MOMENTUM, kind=signed, decay=config.momentum),)
    if config.scalar == "lion":
        rest: tuple[StateStream, ...] = (
            StateStream(name=Stream.EXP_AVG, kind=signed, decay=beta2, scope=Scope.REST, is_bias_corrected=True),
        )
    else:
        rest = _adam(config, Scope.REST)
    momentum = StateStream(
        name=Stream.MOMENTUM,
        kind=signed,
        decay=config.momentum,
        scope=Scope.MATRICES,
        is_bias_corrected=config.kind == "muon",
    )
    if config.kind == "muon":
        return (momentum, *rest)
    basis = StateStream(name=Stream.BASIS, kind=StreamKind.BASIS, decay=0.0, scope=Scope.MATRICES)
    return (momentum, basis, *rest)


def half_life(decay: float) -> float:
    """Steps after which half of the past is forgotten: ln 0.5 / ln beta; 0 for beta = 0."""
    return math.log(0.5) / math.log(decay) if decay > 0 else 0.0


def periods(manifest: Manifest) -> tuple[Period, ...]:
    """The period of the parameters and of each state stream, with the reason in words.

    -1 in the manifest is derived: a signed moment with beta <= 0.95 is not exchanged, any other one once in its half-life, but
    not more often than the parameters (DES-LOC's rule of thumb). The rule is part of the protocol version: nodes that disagree
    about it would still meet, but not as the organiser was told.
    """
    meeting = manifest.meeting
    params = Period(stream=Stream.PARAMS, every_steps=meeting.params_every_steps, reason="set in the manifest")
    return (params, *(_period(stream, meeting) for stream in state_streams(manifest.optimizer)))


def _period(stream: StateStream, meeting: MeetingConfig) -> Period:
    if stream.kind is StreamKind.BASIS:
        return Period(
            stream=stream.name, every_steps=0, reason="bases have no common gauge; a joiner takes its donor's"
        )
    wished = {
        Stream.EXP_AVG: meeting.exp_avg_every_steps,
        Stream.EXP_AVG_SQ: meeting.exp_avg_sq_every_steps,
        Stream.MOMENTUM: meeting.momentum_every_steps,
    }[stream.name]
    if wished >= 0:
        return Period(stream=stream.name, every_steps=wished, reason="set in the manifest")
    steps = half_life(stream.decay)
    if stream.kind is StreamKind.SIGNED and stream.decay <= _SHORTEST_DECAY:
        reason = (
            f"beta {stream.decay:g} forgets half in {steps:.1f} steps, so an exchanged value is gone before it matters"
        )
        return Period(stream=stream.name, every_steps=0, reason=reason)
    every_steps = max(meeting.params_every_steps, round(steps))
    return Period(stream=stream.name, every_steps=every_steps, reason=f"half-life of beta {stream.decay:g}")


def _adam(config: OptimizerConfig, scope: Scope) -> tuple[StateStream, ...]:
    first = StateStream(
        name=Stream.EXP_AVG, kind=StreamKind.SIGNED, decay=config.beta1, scope=scope, is_bias_corrected=True
    )
    second = StateStream(
        name=Stream.EXP_AVG_SQ, kind=StreamKind.NON_NEGATIVE, decay=config.beta2, scope=scope, is_bias_corrected=True
    )
    return first, second
