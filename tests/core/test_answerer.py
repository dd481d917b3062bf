"""The answering end by itself: deadlines, and verdicts that stand."""

from lowcomm_node.core.answerer import AnsweringEnd
from lowcomm_node.core.commands import Command, DropMeeting, ReportMeeting, Send
from lowcomm_node.core.events import AnswerEncoded, CorrectionApplied, EncodingRefused
from lowcomm_node.core.messages import Answer, Close, Offer, StreamPlan, Verdict
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Codec, Dtype, MeetingId, PeerId, RunId, Stream

_ID = MeetingId("m")
_DEADLINE_S = 5.0
_CLOSE = Close(meeting_id=_ID, parts=(b"",))
_ENCODED = AnswerEncoded(meeting_id=_ID, parts=(b"",), progress_steps=0)


def end_with_offer() -> AnsweringEnd:
    """An answering end that has taken up one offer, at time 0."""
    end = AnsweringEnd(deadline_s=_DEADLINE_S, verdict_keep_s=30.0)
    plan = StreamPlan(stream=Stream.PARAMS, codec=Codec.DENSE, dtype=Dtype.FP32, ranks=(-1,))
    offer = Offer(
        meeting_id=_ID,
        run_id=RunId("r"),
        protocol_version=1,
        sender=PeerId("b"),
        receiver=PeerId("a"),
        plans=(plan,),
        parts=(b"1",),
        progress_steps=0,
    )
    end.offered(offer, 0.0)
    return end


def outcomes(commands: list[Command]) -> list[tuple[str, str]]:
    return [(command.outcome, command.reason) for command in commands if isinstance(command, ReportMeeting)]


def test_an_answer_that_the_trainer_never_makes_ends_by_deadline() -> None:
    """A trainer that is stuck holds neither the node's attention nor its memory for ever; its late answer is dropped."""
    end = end_with_offer()

    assert end.ticked(_DEADLINE_S - 0.1) == []
    assert outcomes(end.ticked(_DEADLINE_S + 0.1)) == [("failed", "timeout")]

    assert end.active is None
    assert end.is_settled()
    assert end.answer_encoded(_ENCODED, 6.0) == [DropMeeting(meeting_id=_ID)]


def test_what_both_ends_must_know_goes_out_and_into_the_report() -> None:
    """The answer says how large a correction may be and how much this node counts; the report says what was applied, and how much of it."""
    end = end_with_offer()
    encoded = AnswerEncoded(meeting_id=_ID, parts=(b"",), progress_steps=0, clip_norms=(2.5,), weight=0.4)
    norms, scales = ((Stream.PARAMS, 5.0),), ((Stream.PARAMS, 0.5),)

    (sent,) = end.answer_encoded(encoded, 0.0)
    end.close_received(_CLOSE, 0.1)
    end.applied(CorrectionApplied(meeting_id=_ID, norms=norms, scales=scales), 0.2)
    (report,) = [command for command in end.confirmed(_ID, 0.3) if isinstance(command, ReportMeeting)]

    assert isinstance(sent, Send)
    assert isinstance(sent.message, Answer)
    assert (sent.message.clip_norms, sent.message.weight) == ((2.5,), 0.4)
    assert (report.norms, report.scales) == (norms, scales)


def test_a_verdict_once_given_is_never_changed() -> None:
    """What a trainer says of a meeting that is settled already, as one that is being replaced may, counts no more."""
    end = end_with_offer()
    end.answer_encoded(_ENCODED, 0.0)
    end.close_received(_CLOSE, 0.0)
    end.trainer_lost(0.0)

    assert end.applied(CorrectionApplied(meeting_id=_ID, norms=()), 0.1) == []
    assert end.refused(EncodingRefused(meeting_id=_ID, reason=RefusalReason.MALFORMED, detail=""), 0.1) == []
    verdict = Verdict(meeting_id=_ID, applied=False, reason=RefusalReason.NOT_READY)
    assert end.close_received(_CLOSE, 0.2) == [Send(meeting_id=_ID, message=verdict)]
