"""Plans of meetings in role: the parameters in the coordinates of frozen factors, and nothing left out.

What was learnt of differences of whole tensors says nothing here, and the other way round: each set of frozen factors has
sizes and expectations of its own, which begin with it.
"""

from collections import OrderedDict
from dataclasses import dataclass

from lowcomm_node.algo.budget import EnergyModel
from lowcomm_node.algo.shapes import Shapes
from lowcomm_node.algo.sizes import is_integer
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.train.frozen import AbTraining, Frozen
from lowcomm_node.units import Codec, Dtype, Factor, Omega, Stream

__all__ = ["FrozenPlans"]

_REMEMBERED = 4
"""Sets of frozen factors: those that are held, and those whose meetings may still end."""


@dataclass(frozen=True, slots=True)
class _Coding:
    shapes: tuple[tuple[int, ...], ...]
    energy: EnergyModel


class FrozenPlans:
    """Makes and checks plans for the frozen factors that ``ab`` holds."""

    def __init__(self, ab: AbTraining, dtype: Dtype, shapes: Shapes) -> None:
        """``dtype``: of the parameters; ``shapes``: theirs, whole."""
        self._ab = ab
        self._dtype = dtype
        self._shapes = shapes
        self._codings: OrderedDict[tuple[str, Factor], _Coding] = OrderedDict()

    def plan(self, frozen: Frozen) -> StreamPlan:
        """Of an own offer. Integers resolve a difference of known size; until one was seen, floating point finds out."""
        energy, ranks = self._coding_of(frozen).energy, (-1,) * len(self._shapes)
        is_first = is_integer(self._dtype) and not energy.knows(ranks)
        return StreamPlan(
            stream=Stream.PARAMS,
            codec=Codec.DENSE,
            dtype=Dtype.BF16 if is_first else self._dtype,
            ranks=ranks,
            frozen=frozen.digest,
            factor=frozen.factor,
        )

    def check(self, plan: StreamPlan) -> None:
        """Accept a partner's plan or raise RemoteProtocolError(MALFORMED), or ForgivableError(NOT_READY) where it has what we have not."""
        is_right = plan.stream is Stream.PARAMS and plan.codec is Codec.DENSE and plan.omega is Omega.SEEDED
        if not is_right or plan.ranks != (-1,) * len(self._shapes):
            detail = f"{plan.stream} in codec {plan.codec} in the coordinates of frozen factors, not the whole of the parameters"
            raise RemoteProtocolError(RefusalReason.MALFORMED, detail)
        is_first = plan.dtype is Dtype.BF16 and is_integer(self._dtype)
        if plan.dtype is not self._dtype and not is_first:
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"{plan.stream} in {plan.dtype}, not {self._dtype}")
        self._coding_of(self._ab.held_for(plan))

    def energy(self, plan: StreamPlan) -> EnergyModel | None:
        """What was learnt of differences in these coordinates; None once that is forgotten."""
        coding = self._codings.get(_key(plan))
        return None if coding is None else coding.energy

    def _coding_of(self, frozen: Frozen) -> _Coding:
        key = (frozen.digest, frozen.factor)
        if key not in self._codings:
            shapes = frozen.shapes(self._shapes)
            self._codings[key] = _Coding(shapes, EnergyModel(shapes))
            while len(self._codings) > _REMEMBERED:
                self._codings.popitem(last=False)
        return self._codings[key]


def _key(plan: StreamPlan) -> tuple[str, Factor]:
    assert plan.factor is not None, "plans in coordinates have a factor; the reader refuses others"
    return plan.frozen, plan.factor
