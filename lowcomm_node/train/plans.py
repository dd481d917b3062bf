"""How own meetings are coded, and which plans of others are accepted; every limit follows from the manifest."""

from collections.abc import Sequence

from lowcomm_node.algo import exchange, moments
from lowcomm_node.algo.budget import EnergyModel
from lowcomm_node.algo.correction import Correction
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.core.progress import is_dense_acceptable
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.payloads import AnyCorrection
from lowcomm_node.units import Codec, Dtype, Stream

__all__ = ["Planner"]


class Planner:
    """Plans for tensors of ``shapes``; remembers how much each tensor's difference held in past meetings."""

    def __init__(self, manifest: Manifest, shapes: Sequence[tuple[int, ...]]) -> None:
        meeting = manifest.meeting
        self._manifest = manifest
        self._shapes = tuple(shapes)
        self._dtype = Dtype(meeting.dtype)
        self._budget_bytes = meeting.budget_bytes
        self._codecs = {Stream.PARAMS: Codec(meeting.codec)}
        if meeting.exp_avg_every_steps:
            self._codecs[Stream.EXP_AVG] = Codec(meeting.codec)
        if meeting.exp_avg_sq_every_steps:
            self._codecs[Stream.EXP_AVG_SQ] = Codec(meeting.exp_avg_sq_codec)
        self._energy = {stream: EnergyModel(shapes) for stream, codec in self._codecs.items() if codec is Codec.AB}

    def plan(self, stream: Stream, *, is_dense: bool) -> StreamPlan:
        """The plan of an own offer. ``is_dense`` sends whole tensors instead of low rank, whatever the budget."""
        codec = self._codecs.get(stream)
        if codec is None:
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"the manifest does not exchange {stream}")
        if codec is Codec.RANK1:
            ranks = moments.rank1_ranks(self._shapes)
            return StreamPlan(stream=stream, codec=codec, dtype=Dtype.FP32, ranks=ranks)
        if is_dense or codec is Codec.DENSE:
            ranks = (-1,) * len(self._shapes)
            return StreamPlan(stream=stream, codec=Codec.DENSE, dtype=self._dtype, ranks=ranks)
        ranks = self._energy[stream].choose_ranks(self._budget_bytes, self._dtype.bits // 8)
        return StreamPlan(stream=stream, codec=codec, dtype=self._dtype, ranks=ranks)

    def observe(self, plan: StreamPlan, correction: AnyCorrection) -> None:
        """Learn from a meeting's correction where the next bytes buy most."""
        if plan.codec is Codec.AB and isinstance(correction, Correction):
            self._energy[plan.stream].observe(plan.ranks, correction.spectra())

    def check_foreign(self, plans: Sequence[StreamPlan], progress_steps: float) -> None:
        """Accept a partner's plans or raise RemoteProtocolError(MALFORMED | OVERSIZED).

        ``progress_steps`` is our own: whole tensors over the budget are taken only near the end of the run.
        """
        if not plans or len({plan.stream for plan in plans}) != len(plans):
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"{len(plans)} plans, not one for each stream met for")
        for plan in plans:
            self._check_one(plan, progress_steps)

    def _check_one(self, plan: StreamPlan, progress_steps: float) -> None:
        codec = self._codecs.get(plan.stream)
        if codec is None:
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"the manifest does not exchange {plan.stream}")
        is_dense_instead = plan.codec is Codec.DENSE and codec is Codec.AB
        if plan.codec is not codec and not is_dense_instead:
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"{plan.stream} in codec {plan.codec}, not {codec}")
        if plan.codec is not Codec.RANK1 and plan.dtype is not self._dtype:
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"{plan.stream} in {plan.dtype}, not {self._dtype}")
        try:
            sizes = (moments if plan.codec is Codec.RANK1 else exchange).part_bytes(self._shapes, plan)
        except ValueError as error:
            raise RemoteProtocolError(RefusalReason.MALFORMED, str(error)) from error
        is_bounded = codec is Codec.AB and not (
            is_dense_instead and is_dense_acceptable(progress_steps, self._manifest)
        )
        if is_bounded and sizes.largest_direction > self._budget_bytes:
            detail = f"{plan.stream} takes {sizes.largest_direction} bytes, over the budget of {self._budget_bytes}"
            raise RemoteProtocolError(RefusalReason.OVERSIZED, detail)
