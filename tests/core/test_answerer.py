"""The answering end by itself: deadlines, and verdicts that stand."""

from dataclasses import replace

from lowcomm_node.core.answerer import AnsweringEnd
from lowcomm_node.core.commands import (
    ApplyClose,
    CloseLink,
    Command,
    DropMeeting,
    EncodeAnswer,
    NoteRefusal,
    ReportMeeting,
    Send,
)
from lowcomm_node.core.deadlines import Deadlines
from lowcomm_node.core.events import AnswerEncoded, CorrectionApplied, EncodingRefused
from lowcomm_node.core.messages import Answer, Close, Confirm, Offer, Refusal, StreamPlan, Verdict
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Codec, Dtype, MeetingId, PeerId, RunId, Stream

_ID = MeetingId("m")
_DEADLINE_S = 5.0
_CLOSE = Close(meeting_id=_ID, parts=(b"",))
_ENCODED = AnswerEncoded(meeting_id=_ID, parts=(b"",), progress_steps=0)


def _offer(meeting: MeetingId) -> Offer:
    plan = StreamPlan(stream=Stream.PARAMS, codec=Codec.DENSE, dtype=Dtype.FP32, ranks=(-1,))
    return Offer(
        meeting_id=meeting,
        run_id=RunId("r"),
        protocol_version=1,
        sender=PeerId("b"),
        receiver=PeerId("a"),
        plans=(plan,),
        parts=(b"1",),
        progress_steps=0,
    )


def end_with_offer() -> AnsweringEnd:
    """An answering end that has taken up one offer, at time 0."""
    end = AnsweringEnd(deadlines=Deadlines(shortest_s=_DEADLINE_S, longest_s=_DEADLINE_S), verdict_keep_s=30.0)
    end.state_restored((), 0.0)
    end.offered(_offer(_ID), 0.0)
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


def test_an_initiator_that_is_gone_holds_nobody_who_leaves() -> None:
    """A partner that has left before us will send no close; one that comes back over another connection is waited for again."""
    end = end_with_offer()
    assert not end.may_leave()

    end.link_failed(_ID)
    end.answer_encoded(_ENCODED, 0.1)
    assert end.may_leave()
    assert not end.is_settled()

    end.offered_again(_ID)
    assert not end.may_leave()
    end.link_failed(_ID)
    end.close_received(_CLOSE, 0.2)
    assert not end.may_leave()  # the trainer is about to apply it


def test_a_close_that_is_late_is_as_good_as_any() -> None:
    """The node is free for others meanwhile; an initiator that froze for a while finds its answer still standing."""
    end = AnsweringEnd(deadlines=Deadlines(shortest_s=1.0, longest_s=60.0), verdict_keep_s=300.0)
    end.state_restored((), 0.0)
    end.offered(_offer(_ID), 0.0)
    end.answer_encoded(_ENCODED, 0.1)

    assert end.ticked(1.0) == []
    assert end.phase() == "answered"
    assert end.ticked(1.2) == []
    assert end.phase() == ""

    assert end.close_received(_CLOSE, 9.0) == [ApplyClose(close=_CLOSE)]


def test_a_node_is_free_while_its_trainer_applies() -> None:
    """What it is asked next comes after the correction in its trainer's order, so the next meeting is about the corrected weights."""
    end = end_with_offer()
    end.answer_encoded(_ENCODED, 0.1)
    assert end.phase() == "answered"

    assert end.close_received(_CLOSE, 0.2) == [ApplyClose(close=_CLOSE)]
    assert end.phase() == ""
    assert not end.is_settled()


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


def test_a_report_says_how_long_each_phase_lasted() -> None:
    """Together they are the duration."""
    end = end_with_offer()
    end.answer_encoded(_ENCODED, 0.25)
    end.close_received(_CLOSE, 1.25)
    end.applied(CorrectionApplied(meeting_id=_ID, norms=()), 1.75)
    (report,) = [command for command in end.confirmed(_ID, 3.75) if isinstance(command, ReportMeeting)]

    phases = {"answering": 0.25, "answered": 1.0, "applying": 0.5, "settled": 2.0}
    assert dict(report.phases) == phases
    assert sum(phases.values()) == report.duration_s


def test_a_verdict_once_given_is_never_changed() -> None:
    """What a trainer says of a meeting that is settled already, as one that is being replaced may, counts no more."""
    end = end_with_offer()
    end.answer_encoded(_ENCODED, 0.0)
    end.close_received(_CLOSE, 0.0)
    end.trainer_lost(0.0)
    end.state_restored((), 0.0)

    assert end.applied(CorrectionApplied(meeting_id=_ID, norms=()), 0.1) == []
    assert end.refused(EncodingRefused(meeting_id=_ID, reason=RefusalReason.MALFORMED, detail=""), 0.1) == []
    verdict = Verdict(meeting_id=_ID, applied=False, reason=RefusalReason.NOT_READY)
    assert end.close_received(_CLOSE, 0.2) == [Send(meeting_id=_ID, message=verdict)]


def verdicts(commands: list[Command]) -> list[bool]:
    sent = [command.message for command in commands if isinstance(command, Send)]
    return [message.applied for message in sent if isinstance(message, Verdict)]


def end_with_applied() -> AnsweringEnd:
    """An answering end that has applied its one meeting, at time 0; nobody has confirmed it."""
    end = end_with_offer()
    end.answer_encoded(_ENCODED, 0.0)
    end.close_received(_CLOSE, 0.0)
    assert verdicts(end.applied(CorrectionApplied(meeting_id=_ID, norms=()), 0.0)) == [True]
    return end


def test_bytes_that_arrive_restart_the_deadline() -> None:
    """A close that takes minutes on a slow line is waited for as long as it moves, and not much longer."""
    end = end_with_offer()
    end.answer_encoded(_ENCODED, 0.0)
    for second in range(1, 100):
        end.progressed(_ID, float(second))
        assert end.ticked(second + 0.5) == []

    assert outcomes(end.ticked(99 + _DEADLINE_S + 0.1)) == [("failed", "timeout")]


def test_nothing_is_said_of_a_state_that_is_not_in_place() -> None:
    """Between two trainers nobody knows what the next state holds: the initiator is told to ask again, which is no verdict."""
    end = end_with_applied()
    end.trainer_lost(1.0)

    for meeting in (_ID, MeetingId("unknown")):
        sent, _ = end.close_received(Close(meeting_id=meeting, parts=(b"",)), 2.0)
        assert isinstance(sent, Send)
        assert sent.message == Refusal(meeting_id=meeting, reason=RefusalReason.NOT_READY)


def test_a_verdict_outlives_a_restart_of_the_daemon() -> None:
    """The state file names what it holds: the initiator's close finds "applied", and its confirmation completes the meeting."""
    end = AnsweringEnd(deadlines=Deadlines(shortest_s=_DEADLINE_S, longest_s=_DEADLINE_S), verdict_keep_s=30.0)
    end.state_restored((_ID,), 0.0)

    assert end.is_settled()
    assert verdicts(end.close_received(_CLOSE, 1.0)) == [True]
    assert not end.is_settled()
    assert outcomes(end.confirmed(_ID, 2.0)) == [("completed", "")]


def test_a_restored_meeting_counts_only_when_its_initiator_asks() -> None:
    """Most were confirmed to the earlier life, after the file was written: silence means nothing, a close without an end does."""
    for is_asked in (False, True):
        end = AnsweringEnd(deadlines=Deadlines(shortest_s=_DEADLINE_S, longest_s=_DEADLINE_S), verdict_keep_s=30.0)
        end.state_restored((_ID,), 0.0)
        if is_asked:
            end.close_received(_CLOSE, 1.0)

        assert outcomes(end.ticked(40.0)) == ([("half", "unconfirmed")] if is_asked else [])
        assert verdicts(end.close_received(_CLOSE, 41.0)) == [False]


def test_restored_meetings_are_bounded_and_survive_a_flood_of_offers() -> None:
    """However many a file names, only the newest are taken, and no stranger can push them out before their time."""
    end = AnsweringEnd(deadlines=Deadlines(shortest_s=_DEADLINE_S, longest_s=_DEADLINE_S), verdict_keep_s=30.0)
    ids = tuple(MeetingId(f"old {number}") for number in range(10_000))
    end.state_restored(ids, 0.0)
    for number in range(1000):
        end.offered(_offer(MeetingId(f"new {number}")), 0.0)
        end.refused(
            EncodingRefused(meeting_id=MeetingId(f"new {number}"), reason=RefusalReason.OVERSIZED, detail=""), 0.0
        )

    assert len(end._known) <= 256
    assert verdicts(end.close_received(Close(meeting_id=ids[-1], parts=(b"",)), 1.0)) == [True]
    assert verdicts(end.close_received(Close(meeting_id=ids[0], parts=(b"",)), 1.0)) == [False]


def test_what_was_being_applied_is_decided_by_the_state_that_comes_back() -> None:
    """The trainer died after it had applied and written, before it could say so: "not applied" would leave a silent half."""
    for is_held in (True, False):
        end = end_with_offer()
        end.answer_encoded(_ENCODED, 0.0)
        end.close_received(_CLOSE, 0.0)

        assert end.trainer_lost(1.0) == []
        commands = end.state_restored((_ID,) if is_held else (), 2.0)

        assert verdicts(commands) == [is_held]
        assert outcomes(commands) == ([] if is_held else [("failed", "trainer")])


def test_a_verdict_follows_a_state_that_goes_back() -> None:
    """Who asks again has not followed the verdict: it hears that nothing is applied, and both ends are as if they never met."""
    end = end_with_applied()
    end.trainer_lost(1.0)
    end.state_restored((), 2.0)

    commands = end.close_received(_CLOSE, 3.0)

    assert verdicts(commands) == [False]
    assert outcomes(commands) == [("failed", "trainer")]
    assert outcomes(end.confirmed(_ID, 4.0)) == []


def test_a_confirmed_verdict_whose_state_went_back_is_a_half_meeting() -> None:
    """The initiator has followed it, and here it is gone: this end knows, and counts. So it does when it never hears."""
    for is_confirmed in (True, False):
        end = end_with_applied()
        end.trainer_lost(1.0)
        end.state_restored((), 2.0)

        commands = end.confirmed(_ID, 3.0) if is_confirmed else end.ticked(40.0)

        assert outcomes(commands) == [("half", "trainer")]


def test_a_confirmation_is_said_back_however_often_it_comes() -> None:
    """Its initiator says it until then; it is counted once. Nothing need be known of the meeting any more."""
    end = end_with_offer()
    end.answer_encoded(_ENCODED, 0.0)
    end.close_received(_CLOSE, 0.1)
    end.applied(CorrectionApplied(meeting_id=_ID, norms=()), 0.2)

    first, second = end.confirmed(_ID, 0.3), end.confirmed(_ID, 0.4)
    unknown = AnsweringEnd(deadlines=Deadlines(shortest_s=1.0, longest_s=1.0), verdict_keep_s=30.0).confirmed(_ID, 0.0)

    echo = [Send(meeting_id=_ID, message=Confirm(meeting_id=_ID)), CloseLink(meeting_id=_ID)]
    assert first[:2] == second == unknown == echo
    assert outcomes(first) == [("completed", "")]


def test_who_has_just_heard_the_verdict_gets_the_time_to_confirm_it() -> None:
    """An initiator whose line was down asks at the last moment: counting before it can answer would call the meeting half."""
    end = end_with_offer()
    end.answer_encoded(_ENCODED, 0.0)
    end.close_received(_CLOSE, 0.0)
    end.applied(CorrectionApplied(meeting_id=_ID, norms=()), 0.0)

    end.close_received(_CLOSE, 29.0)
    assert end.ticked(31.0) == []
    assert outcomes(end.confirmed(_ID, 32.0)) == [("completed", "")]


def test_nobody_has_a_verdict_remembered_for_ever() -> None:
    """Asking for it again and again keeps it once as long again: nobody honest asks for longer."""
    end = end_with_offer()
    end.answer_encoded(_ENCODED, 0.0)
    end.close_received(_CLOSE, 0.0)
    end.applied(CorrectionApplied(meeting_id=_ID, norms=()), 0.0)

    ended = []
    for second in range(1, 100):
        end.close_received(_CLOSE, float(second))
        ended += [second] * len(outcomes(end.ticked(float(second))))

    assert ended == [61]


def test_an_offer_that_its_sender_says_again_is_answered_once() -> None:
    """During the meeting it gets the answer, or the verdict, that there is; once both ends have it whole it is refused and counted."""
    end = end_with_offer()
    answer, *_ = end.answer_encoded(_ENCODED, 0.5)
    assert end.offered_again(_ID) == [answer]
    end.close_received(_CLOSE, 1.0)
    assert end.offered_again(_ID) == [answer]
    verdict, *_ = end.applied(CorrectionApplied(meeting_id=_ID, norms=()), 1.5)
    assert end.offered_again(_ID) == [verdict]
    end.confirmed(_ID, 2.0)

    refused = end.offered_again(_ID)

    assert refused[:2] == [
        Send(meeting_id=_ID, message=Refusal(meeting_id=_ID, reason=RefusalReason.REPLAYED)),
        CloseLink(meeting_id=_ID),
    ]
    (note,) = refused[2:]
    assert isinstance(note, NoteRefusal)
    assert (note.peer, note.reason, note.is_offence) == (PeerId("b"), RefusalReason.REPLAYED, False)
    assert end.close_received(_CLOSE, 2.5) == [Send(meeting_id=_ID, message=Verdict(meeting_id=_ID, applied=True))]


def test_who_lets_answers_lie_is_not_answered_for_a_while_and_others_are() -> None:
    """Two offers that come to nothing are luck; the third is refused by name and counted, and costs the trainer nothing."""
    end = end_with_offer()
    end.answer_encoded(_ENCODED, 0.0)
    end.ticked(_DEADLINE_S + 1.0)
    assert end.turn_away_again(_offer(MeetingId("2")), 6.0) == []
    assert isinstance(end.offered(_offer(MeetingId("2")), 6.0)[0], EncodeAnswer)

    sent, closed, note = end.turn_away_again(_offer(MeetingId("3")), 7.0)

    refusal = Refusal(meeting_id=MeetingId("3"), reason=RefusalReason.TOO_MANY)
    assert (sent, closed) == (Send(meeting_id=MeetingId("3"), message=refusal), CloseLink(meeting_id=MeetingId("3")))
    assert isinstance(note, NoteRefusal)
    assert (note.peer, note.reason, note.is_offence) == (PeerId("b"), RefusalReason.TOO_MANY, False)
    assert end.turn_away_again(replace(_offer(MeetingId("3")), sender=PeerId("c")), 7.0) == []
    assert end.turn_away_again(_offer(MeetingId("3")), 8.1) == []


def test_a_trainer_that_refuses_or_dies_is_not_held_against_who_has_offered() -> None:
    """Its offers came to nothing, and it could do nothing about it."""
    for lost in (False, True):
        end = end_with_offer()
        for number in range(5):
            meeting = MeetingId(f"new {number}")
            end.offered(_offer(meeting), 0.0)
            if lost:
                end.trainer_lost(0.0)
                end.state_restored((), 0.0)
            else:
                end.refused(EncodingRefused(meeting_id=meeting, reason=RefusalReason.NOT_READY, detail=""), 0.0)
            assert end.turn_away_again(_offer(MeetingId("next")), 0.0) == []
