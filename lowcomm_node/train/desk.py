"""The trainer's side of meetings: encodes from the live weights, holds what is pending, applies between two steps.

Whatever comes from a peer is checked here before it touches anything: plans against the manifest, sizes against the
plans, numbers for being finite, corrections against the largest size (clipped gossip, ``algo.clipping``). A meeting that
fails a check is forgotten and answered with the reason.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from lowcomm_node.algo.clipping import ClipNorms, clip_scale
from lowcomm_node.algo.wireformat import is_finite
from lowcomm_node.core.ab_stages import Stage
from lowcomm_node.core.commands import ApplyClose, DropMeeting, EncodeAnswer, EncodeClose, EncodeOffer, SettleMeeting
from lowcomm_node.core.events import AnswerEncoded, CloseEncoded, CorrectionApplied, EncodingRefused, OfferEncoded
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.core.progress import is_plausible
from lowcomm_node.core.quarantine import OFFENCES
from lowcomm_node.core.standing import ASLEEP_PERIODS, PROBATION_MEETINGS, share, weight_after, weight_after_sleep
from lowcomm_node.errors import ForgivableError, RefusalReason, RemoteProtocolError, StoreError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.codec_work import CodecWork
from lowcomm_node.train.exchanged import Exchanged
from lowcomm_node.train.payloads import (
    AnyCorrection,
    AnyHalf,
    answer_part,
    apply_correction,
    close_corrections,
    close_part,
    finish_part,
    frozen_of,
    meeting_seed,
    offer_part,
)
from lowcomm_node.train.pending import Answered, Checked, Held, Offered
from lowcomm_node.train.plans import Planner
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Codec, MeetingId, RunId, Stream
from lowcomm_node.wire.checkpoint import MAX_APPLIED

__all__ = ["MeetingCommand", "MeetingDesk", "MeetingEvent"]

MeetingCommand = EncodeOffer | EncodeAnswer | EncodeClose | ApplyClose | SettleMeeting | DropMeeting
MeetingEvent = OfferEncoded | AnswerEncoded | CloseEncoded | CorrectionApplied | EncodingRefused

_MAX_ANSWERED = 8
"""Answers whose close is still to come. An older one is dropped: its close will be refused, and nobody applies it."""
_MAX_INITIATED = 16
"""Own offers and held corrections. The core keeps at most 8, so that nothing is dropped here that still counts."""
_CLIP_SLACK = 1e-3
"""Share by which a correction may be larger than we have asked for: the partner's |C| is rounded as its machine does it."""


_Pending = TypeVar("_Pending", Answered, Offered | Held)


class MeetingDesk:
    """Turns meeting commands into events. Called between two steps, never during one."""

    def __init__(
        self, replica: Replica, manifest: Manifest, run_id: RunId, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``clock`` is monotonic seconds: how long the work on a meeting takes is told, and decides nothing."""
        self._replica = replica
        self._training = manifest.training
        self._weight = manifest.outer.mixing_gain / 2
        self._run_id = run_id
        shapes = {stream: replica.shapes_of(stream) for stream in replica.streams}
        self._planner = Planner(manifest, shapes, replica.ab)
        self._clip_norms = ClipNorms(manifest.meeting.clip_ratio)
        self._num_meetings = PROBATION_MEETINGS
        """Since this node took over a donor's state, if it has; who has not counts fully."""
        self._missed_steps = 0
        """Of which the node knows that others have taken them while it stood still; since its last meeting."""
        self._every_steps = manifest.meeting.params_every_steps
        self._rebound_epoch = 0
        """Of AB-training: the newest epoch whose rebound has begun."""
        self._initiated: OrderedDict[MeetingId, Offered | Held] = OrderedDict()
        self._answered: OrderedDict[MeetingId, Answered] = OrderedDict()
        self._applied: deque[MeetingId] = deque(maxlen=MAX_APPLIED)
        self.exchanged: dict[tuple[Stream, Codec], Exchanged] = {}
        """Of each stream that has met, and the codec it met in, in the life of this process."""
        self.work = CodecWork(clock)

    def handle(self, command: MeetingCommand) -> MeetingEvent | None:
        """Carry out one command; DropMeeting has no answer."""
        self._notice_stage()
        try:
            match command:
                case EncodeOffer():
                    return self._offer(command)
                case EncodeAnswer():
                    return self._answer(command)
                case EncodeClose():
                    return self._close(command)
                case ApplyClose():
                    return self._apply(command)
                case SettleMeeting():
                    return self._settle(command)
                case DropMeeting():
                    self._initiated.pop(command.meeting_id, None)
                    self._answered.pop(command.meeting_id, None)
                    return None
        except RemoteProtocolError as error:
            meeting_id = _meeting_of(command)
            # Of the one role only: a peer that offers a meeting under the id of ours must not make us drop ours.
            if isinstance(command, EncodeAnswer | ApplyClose):
                self._answered.pop(meeting_id, None)
            elif error.reason is not RefusalReason.UNKNOWN_MEETING:
                self._initiated.pop(meeting_id, None)
            is_about_peer = isinstance(command, EncodeAnswer | EncodeClose | ApplyClose)
            return EncodingRefused(
                meeting_id=meeting_id,
                reason=error.reason,
                detail=error.detail,
                is_offence=is_about_peer and error.reason in OFFENCES and not isinstance(error, ForgivableError),
            )

    def held(self) -> dict[str, tuple[int, int]]:
        """How many meetings wait for more here, and how many may, by the word for each."""
        return {
            "desk_initiated": (len(self._initiated), _MAX_INITIATED),
            "desk_answered": (len(self._answered), _MAX_ANSWERED),
        }

    @property
    def applied_meetings(self) -> tuple[MeetingId, ...]:
        """Those this node has answered and applied to the state it has now, the newest last."""
        return tuple(self._applied)

    def learnt(self) -> dict[str, Any]:
        """What past meetings have taught, for a checkpoint: sizes of differences and of corrections."""
        return {"clip_norms": self._clip_norms.export(), "energy": self._planner.export()}

    def recall(self, learnt: Mapping[str, Any]) -> None:
        """Take over what ``learnt`` gave in an earlier life. Raises StoreError for anything else."""
        try:
            self._clip_norms.recall(learnt["clip_norms"])
            self._planner.recall(learnt["energy"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"what was learnt from meetings cannot be used: {error}") from error

    def forget_all(self, applied_meetings: Sequence[MeetingId] = ()) -> None:
        """The state was replaced: what is pending was computed from another one. ``applied_meetings`` are those of the new one."""
        self._initiated.clear()
        self._answered.clear()
        self._applied = deque(applied_meetings, maxlen=MAX_APPLIED)

    def join(self) -> None:
        """The state is a donor's: this node counts little until it has met several others."""
        self._num_meetings = 0

    def stood_still(self, steps: int) -> None:
        """The time of so many steps has passed without one: the others have gone on."""
        self._missed_steps += steps

    def _offer(self, command: EncodeOffer) -> OfferEncoded:
        streams = [stream for stream in command.streams if self._replica.is_ready(stream)]
        if not streams:
            raise RemoteProtocolError(RefusalReason.NOT_READY, "no step was taken yet, there are no moments")
        in_use = None if self._replica.ab is None else self._replica.ab.in_use(self._replica.progress_steps)
        plans = tuple(self._planner.plan(stream, is_dense=command.is_dense, frozen=in_use) for stream in streams)
        parts: list[bytes] = []
        for plan in plans:
            with self.work.of("offer", plan.codec):
                seed, ranges = self._seed(command.meeting_id, plan), self._planner.ranges(plan)
                parts.append(offer_part(self._replica, plan, seed, ranges))
        progress = self._replica.progress_steps
        weight = self._standing()
        offered = Offered(plans=plans, parts=tuple(parts), progress_steps=progress, weight=weight)
        _keep(self._initiated, command.meeting_id, offered, _MAX_INITIATED)
        return OfferEncoded(
            meeting_id=command.meeting_id, plans=plans, parts=offered.parts, progress_steps=progress, weight=weight
        )

    def _answer(self, command: EncodeAnswer) -> AnswerEncoded:
        offer, replica = command.offer, self._replica
        self._check_progress(offer.progress_steps)
        self._planner.check_foreign(offer.plans, replica.progress_steps)
        if not all(replica.is_ready(plan.stream) for plan in offer.plans):
            raise RemoteProtocolError(RefusalReason.NOT_READY, "no step was taken yet, there are no moments")
        parts: list[bytes] = []
        halves: list[AnyHalf] = []
        with _peer_input():
            for plan, offered in zip(offer.plans, offer.parts, strict=True):
                with self.work.of("answer", plan.codec):
                    part, half = answer_part(replica, plan, self._seed(offer.meeting_id, plan), offered)
                self._check_finite(plan.stream, half.is_finite())
                parts.append(part)
                halves.append(half)
        progress = replica.progress_steps
        weight = self._standing()
        own_share = share(weight, offer.weight)
        shift = own_share * (offer.progress_steps - progress) / 2
        clip_norms = tuple(self._clip_norms.limit(plan.stream, plan.codec, plan.factor) for plan in offer.plans)
        answered = Answered(
            plans=offer.plans, halves=tuple(halves), clip_norms=clip_norms, progress_shift=shift, share=own_share
        )
        _keep(self._answered, offer.meeting_id, answered, _MAX_ANSWERED)
        return AnswerEncoded(
            meeting_id=offer.meeting_id,
            parts=tuple(parts),
            progress_steps=progress,
            clip_norms=clip_norms,
            weight=weight,
        )

    def _close(self, command: EncodeClose) -> CloseEncoded:
        answer = command.answer
        offered = self._initiated.get(answer.meeting_id)
        if not isinstance(offered, Offered):
            raise _unknown(answer.meeting_id)
        self._check_progress(answer.progress_steps)
        parts: list[bytes] = []
        corrections: list[Checked] = []
        with _peer_input():
            clip_norms = _per_plan(answer.clip_norms, offered.plans, math.inf)
            for plan, own, theirs, clip_norm in zip(
                offered.plans, offered.parts, answer.parts, clip_norms, strict=True
            ):
                seed = self._seed(answer.meeting_id, plan)
                with self.work.of("close", plan.codec):
                    part, correction = close_part(self._replica, plan, seed, own, theirs)
                norm = self._finite_norm(plan, correction)
                limit = self._clip_norms.limit(plan.stream, plan.codec, plan.factor)
                scale = clip_scale(norm, limit, clip_norm)
                parts.append(part)
                corrections.append(Checked(plan, correction, norm, scale, frozen_of(self._replica, plan)))
        own_share = share(offered.weight, answer.weight)
        shift = own_share * (answer.progress_steps - offered.progress_steps) / 2
        held = Held(corrections=tuple(corrections), progress_shift=shift, share=own_share)
        self._initiated[answer.meeting_id] = held
        scales = tuple(checked.scale for checked in corrections)
        return CloseEncoded(meeting_id=answer.meeting_id, parts=tuple(parts), scales=scales)

    def _apply(self, command: ApplyClose) -> CorrectionApplied:
        close = command.close
        answered = self._answered.get(close.meeting_id)
        if answered is None:
            raise _unknown(close.meeting_id)
        corrections: list[Checked] = []
        with _peer_input():
            scales = _per_plan(close.scales, answered.plans, 1.0)
            for plan, half, part, scale, clip_norm in zip(
                answered.plans, answered.halves, close.parts, scales, answered.clip_norms, strict=True
            ):
                with self.work.of("finish", plan.codec):
                    correction = finish_part(half, part)
                norm = self._finite_norm(plan, correction)
                if scale * norm > clip_norm * (1 + _CLIP_SLACK):
                    # Two machines need not find the same basis where its directions are nearly one.
                    detail = f"{plan.stream}: a correction of {scale * norm:.3g}, {clip_norm:.3g} was asked for"
                    raise ForgivableError(RefusalReason.MALFORMED, detail)
                corrections.append(Checked(plan, correction, norm, scale, frozen_of(self._replica, plan)))
        del self._answered[close.meeting_id]
        self._applied.append(close.meeting_id)
        return self._follow(close.meeting_id, corrections, answered, sign=1)

    def _settle(self, command: SettleMeeting) -> CorrectionApplied:
        held = self._initiated.get(command.meeting_id)
        if not isinstance(held, Held):
            raise _unknown(command.meeting_id)
        del self._initiated[command.meeting_id]
        return self._follow(command.meeting_id, held.corrections, held, sign=-1)

    def _follow(
        self, meeting_id: MeetingId, corrections: Sequence[Checked], pending: Held | Answered, *, sign: int
    ) -> CorrectionApplied:
        signed_weight = sign * pending.share * self._weight
        for checked in corrections:
            stream, weight = checked.plan.stream, signed_weight * checked.scale
            with self.work.of("apply", checked.plan.codec):
                apply_correction(self._replica, stream, checked.correction, weight, checked.frozen)
        close_corrections(self._replica, [(checked.plan.stream, checked.correction) for checked in corrections])
        self._num_meetings += 1
        self._missed_steps = 0
        # Never below the start: the learning rate of a negative progress has no meaning.
        self._replica.progress_steps = max(0.0, self._replica.progress_steps + pending.progress_shift)
        for checked in corrections:
            is_own = sign < 0
            whole = self._planner.observe(checked.plan, checked.correction, is_own=is_own, scale=checked.scale)
            self._clip_norms.observe(checked.plan.stream, checked.plan.codec, checked.norm, checked.plan.factor)
            if checked.frozen is not None:
                continue  # of how far apart two nodes are it has told one span
            met = (checked.plan.stream, checked.plan.codec)
            self.exchanged[met] = self.exchanged.get(met, Exchanged()).with_correction(
                captured=checked.norm**2,
                whole=whole,
                progress_gap_steps=2 * abs(pending.progress_shift) / pending.share,
            )
        return CorrectionApplied(
            meeting_id=meeting_id,
            norms=tuple((c.plan.stream, c.norm) for c in corrections),
            scales=tuple((c.plan.stream, c.scale) for c in corrections),
        )

    def _notice_stage(self) -> None:
        """A rebound begins: who has trained the other factor is further from us than anybody has been, and integers and clipping go by the past."""
        point = None if self._replica.ab is None else self._replica.ab.point(self._replica.progress_steps)
        if point is not None and point.stage is Stage.REBOUND and point.epoch > self._rebound_epoch:
            self._rebound_epoch = point.epoch
            self._planner.begin_anew()
            self._clip_norms.begin_anew(Stream.PARAMS)

    def _standing(self) -> float:
        """How much this node counts now."""
        asleep = self._missed_steps / self._every_steps
        if asleep < ASLEEP_PERIODS:
            return weight_after(self._num_meetings)
        self._num_meetings = 0
        return weight_after_sleep(asleep)

    def _check_progress(self, progress_steps: float) -> None:
        if not math.isfinite(progress_steps):
            raise RemoteProtocolError(RefusalReason.NONFINITE, f"progress of {progress_steps} steps")
        if not is_plausible(progress_steps, self._training):
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"progress of {progress_steps} steps is not possible")

    def _finite_norm(self, plan: StreamPlan, correction: AnyCorrection) -> float:
        norm = correction.norm() if correction.is_finite() else math.nan
        self._check_finite(plan.stream, math.isfinite(norm))
        return norm

    def _check_finite(self, stream: Stream, is_finite_: bool) -> None:
        """What comes of two states is not finite when one of them is not: whose fault it is depends on whether ours is."""
        if is_finite_:
            return
        if all(map(is_finite, self._replica.views(stream))):
            raise RemoteProtocolError(RefusalReason.NONFINITE, f"{stream}: a NaN or an infinity")
        raise ForgivableError(RefusalReason.NONFINITE, f"{stream}: a NaN or an infinity, of our own")

    def _seed(self, meeting_id: MeetingId, plan: StreamPlan) -> bytes:
        return meeting_seed(self._run_id, meeting_id, plan.stream)


def _meeting_of(command: MeetingCommand) -> MeetingId:
    match command:
        case EncodeAnswer(offer=offer):
            return offer.meeting_id
        case EncodeClose(answer=answer):
            return answer.meeting_id
        case ApplyClose(close=close):
            return close.meeting_id
        case _:
            return command.meeting_id


def _keep(pending: OrderedDict[MeetingId, _Pending], meeting_id: MeetingId, item: _Pending, most: int) -> None:
    pending.pop(meeting_id, None)
    pending[meeting_id] = item
    while len(pending) > most:
        pending.popitem(last=False)


@contextmanager
def _peer_input() -> Iterator[None]:
    """What the codecs find wrong with a payload is the peer's fault: counts and sizes come from it alone."""
    try:
        yield
    except ValueError as error:
        raise RemoteProtocolError(RefusalReason.MALFORMED, str(error)) from error


def _per_plan(numbers: Sequence[float], plans: Sequence[StreamPlan], largest: float) -> Sequence[float]:
    """A peer's number in (0, largest] for each plan; none at all stand for the largest. Raises ValueError."""
    if not numbers:
        return (largest,) * len(plans)
    if len(numbers) != len(plans) or not all(0.0 < number <= largest for number in numbers):
        raise ValueError(f"{list(numbers)} where each of {len(plans)} plans takes a number in (0, {largest:g}]")
    return numbers


def _unknown(meeting_id: MeetingId) -> RemoteProtocolError:
    return RemoteProtocolError(RefusalReason.UNKNOWN_MEETING, f"meeting {meeting_id} is not pending here")
