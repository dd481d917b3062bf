"""How own meetings are coded, and which plans of others are accepted; every limit follows from the manifest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from lowcomm_node.algo import moments
from lowcomm_node.algo.budget import EnergyModel, choose_counts
from lowcomm_node.algo.correction import Correction
from lowcomm_node.algo.shapes import Shapes
from lowcomm_node.algo.sizes import PartBytes, is_integer, part_bytes
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.core.progress import is_dense_acceptable
from lowcomm_node.errors import ForgivableError, RefusalReason, RemoteProtocolError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.streams import periods
from lowcomm_node.train.frozen import AbTraining, Frozen
from lowcomm_node.train.frozen_plans import FrozenPlans
from lowcomm_node.train.payloads import AnyCorrection
from lowcomm_node.units import Codec, Dtype, Omega, Stream

__all__ = ["Planner"]


@dataclass(frozen=True, slots=True)
class _Coding:
    """How the manifest wants one stream to be coded."""

    codec: Codec
    dtype: Dtype
    shapes: tuple[tuple[int, ...], ...]
    energy: EnergyModel


class Planner:
    """Plans for the streams that the manifest exchanges; remembers how much each tensor's difference held in past meetings."""

    def __init__(self, manifest: Manifest, shapes: Mapping[Stream, Shapes], ab: AbTraining | None = None) -> None:
        """``shapes``: per stream those of its tensors, for all streams that are exchanged. ``ab``: of a replica that has stages."""
        self._manifest = manifest
        self._omega = Omega(manifest.meeting.omega)
        self._budget_bytes = manifest.budget_bytes
        self._codings = {
            period.stream: _coding(manifest, period.stream, shapes[period.stream])
            for period in periods(manifest)
            if period.every_steps > 0
        }
        params = self._codings[Stream.PARAMS]
        self._in_role = None if ab is None else FrozenPlans(ab, params.dtype, params.shapes)

    def plan(self, stream: Stream, *, is_dense: bool, frozen: Frozen | None = None) -> StreamPlan:
        """The plan of an own offer. ``is_dense`` sends whole tensors instead of some directions or coordinates, whatever the budget.

        ``frozen``: by which this node trains a factor; the parameters then go in their coordinates, and nothing is left out.
        """
        if self._in_role is not None and frozen is not None and stream is Stream.PARAMS and not is_dense:
            return self._in_role.plan(frozen)
        plan = self.settled(stream, is_dense=is_dense)
        coding = self._coding(stream)
        if is_integer(plan.dtype) and not coding.energy.knows(plan.ranks):
            # Integers resolve a difference of known size; until one was seen, floating point finds out.
            return self._plan(coding, stream, plan.codec, Dtype.BF16)
        return plan

    def settled(self, stream: Stream, *, is_dense: bool) -> StreamPlan:
        """As ``plan``, once the size of differences is known: what nearly all meetings of a run are like."""
        coding = self._coding(stream)
        if coding.codec is Codec.RANK1:
            ranks = moments.rank1_ranks(coding.shapes)
            return StreamPlan(stream=stream, codec=Codec.RANK1, dtype=Dtype.FP32, ranks=ranks)
        return self._plan(coding, stream, Codec.DENSE if is_dense else coding.codec, coding.dtype)

    def sizes(self, plan: StreamPlan) -> PartBytes:
        """Payloads of one stream whose tensors are whole. Raises ValueError for a plan that cannot be carried out."""
        shapes = self._coding(plan.stream).shapes
        return moments.part_bytes(shapes, plan) if plan.codec is Codec.RANK1 else part_bytes(shapes, plan)

    def ranges(self, plan: StreamPlan) -> tuple[float, ...] | None:
        """What ``encode_offer`` needs to know for an own plan: expected rms per tensor; None where the format does not ask."""
        energy = self._energy(plan) if is_integer(plan.dtype) else None
        return None if energy is None else energy.ranges()

    def observe(self, plan: StreamPlan, correction: AnyCorrection, *, is_own: bool, scale: float = 1.0) -> float:
        """Learn from a meeting's correction where the next bytes buy most, and how large differences are.

        Returns the energy |D|^2 of the whole difference as this meeting tells it, before clipping; NaN where its codec does not.

        Only ``scale`` times the correction was applied, and counts: what was clipped says nothing about honest partners, and
        integers whose range has grown with it would no longer tell their differences. A void tensor teaches the initiator
        alone: it was its belief that was too small.
        """
        if not isinstance(correction, Correction):
            return math.nan
        spectra = correction.spectra()
        ranks = [
            0 if not rank or (spectrum is None and not is_own) else rank if plan.codec is Codec.AB else -1
            for rank, spectrum in zip(plan.ranks, spectra, strict=True)
        ]
        energy = self._energy(plan)
        if energy is None:
            return math.nan
        whole = energy.estimate(ranks, spectra)
        energy.observe(
            ranks, [None if spectrum is None else tuple(scale**2 * part for part in spectrum) for spectrum in spectra]
        )
        return whole

    def begin_anew(self) -> None:
        """Whole differences of the parameters will be of another size than before: floating point finds out which."""
        coding = self._codings[Stream.PARAMS]
        self._codings[Stream.PARAMS] = replace(coding, energy=EnergyModel(coding.shapes))

    def export(self) -> dict[str, dict[str, list[float]]]:
        """What was learnt of each stream, for a checkpoint."""
        return {stream.value: coding.energy.export() for stream, coding in self._codings.items()}

    def recall(self, exported: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        """Take over what ``export`` gave. Raises ValueError for anything else."""
        if exported.keys() != {stream.value for stream in self._codings}:
            raise ValueError(f"of streams {sorted(exported)}, not of those that are exchanged")
        for stream, coding in self._codings.items():
            coding.energy.recall(exported[stream.value])

    def check_foreign(self, plans: Sequence[StreamPlan], progress_steps: float) -> None:
        """Accept a partner's plans or raise RemoteProtocolError(MALFORMED | OVERSIZED).

        ``progress_steps`` is our own: whole tensors in place of ab or sparse are taken only near the end of the run.
        """
        if not plans or len({plan.stream for plan in plans}) != len(plans):
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"{len(plans)} plans, not one for each stream met for")
        for plan in plans:
            self._check_one(plan, progress_steps)

    def _energy(self, plan: StreamPlan) -> EnergyModel | None:
        """What was learnt of such differences; None of coordinates that are no longer known."""
        if plan.frozen:
            return None if self._in_role is None else self._in_role.energy(plan)
        return self._coding(plan.stream).energy

    def _check_one(self, plan: StreamPlan, progress_steps: float) -> None:
        if plan.frozen:
            if self._in_role is None:
                raise RemoteProtocolError(RefusalReason.MALFORMED, "frozen factors in a run that has none")
            self._in_role.check(plan)
            return
        coding = self._coding(plan.stream)
        is_dense_instead = plan.codec is Codec.DENSE and coding.codec in (Codec.AB, Codec.SPARSE)
        if plan.codec is not coding.codec and not is_dense_instead:
            raise RemoteProtocolError(
                RefusalReason.MALFORMED, f"{plan.stream} in codec {plan.codec}, not {coding.codec}"
            )
        is_first = plan.dtype is Dtype.BF16 and is_integer(coding.dtype)
        if plan.dtype is not coding.dtype and not is_first:
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"{plan.stream} in {plan.dtype}, not {coding.dtype}")
        if plan.codec is Codec.AB and plan.omega is not self._omega:
            raise RemoteProtocolError(
                RefusalReason.MALFORMED, f"{plan.stream} with omega {plan.omega}, not {self._omega}"
            )
        try:
            sizes = self.sizes(plan)
        except ValueError as error:
            raise RemoteProtocolError(RefusalReason.MALFORMED, str(error)) from error
        if is_dense_instead and not is_dense_acceptable(progress_steps, self._manifest):
            # Who is ahead of us may be in it already.
            raise ForgivableError(RefusalReason.OVERSIZED, f"{plan.stream} whole, before the last phase of the run")
        is_bounded = plan.codec in (Codec.AB, Codec.SPARSE)
        if is_bounded and sizes.largest_direction > self._budget_bytes:
            detail = f"{plan.stream} takes {sizes.largest_direction} bytes, over the budget of {self._budget_bytes}"
            raise RemoteProtocolError(RefusalReason.OVERSIZED, detail)

    def _coding(self, stream: Stream) -> _Coding:
        coding = self._codings.get(stream)
        if coding is None:
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"the manifest does not exchange {stream}")
        return coding

    def _plan(self, coding: _Coding, stream: Stream, codec: Codec, dtype: Dtype) -> StreamPlan:
        omega = self._omega if codec is Codec.AB else Omega.SEEDED
        ranks = self._ranks(coding, codec, dtype)
        return StreamPlan(stream=stream, codec=codec, dtype=dtype, ranks=ranks, omega=omega)

    def _ranks(self, coding: _Coding, codec: Codec, dtype: Dtype) -> tuple[int, ...]:
        match codec:
            case Codec.AB:
                return coding.energy.choose_ranks(self._budget_bytes, dtype, self._omega)
            case Codec.SPARSE:
                return _counts(coding.shapes, self._budget_bytes, dtype)
            case _:
                return (-1,) * len(coding.shapes)


def _coding(manifest: Manifest, stream: Stream, shapes: Shapes) -> _Coding:
    meeting = manifest.meeting
    dtype = Dtype(meeting.dtype)
    codec = Codec(meeting.exp_avg_sq_codec if stream is Stream.EXP_AVG_SQ else meeting.codec)
    if codec is Codec.RANK1:
        dtype = Dtype.FP32
    elif is_integer(dtype) and (stream is Stream.EXP_AVG or (stream is Stream.EXP_AVG_SQ and codec is Codec.DENSE)):
        # Moments of one tensor span many orders of magnitude, and each counts beside its own second moment: the noise of integers
        # is the same everywhere, and would drown the small ones.
        dtype = Dtype.BF16
    return _Coding(codec, dtype, tuple(map(tuple, shapes)), EnergyModel(shapes))


@lru_cache(maxsize=8)
def _counts(shapes: tuple[tuple[int, ...], ...], budget_bytes: int, dtype: Dtype) -> tuple[int, ...]:
    """``choose_counts``, which follows from a run's manifest alone, and takes as long as all else of an offer does."""
    return choose_counts(shapes, budget_bytes, dtype)
