"""The initiating end by itself: what it makes of a partner, a link or a trainer that does not do as it should."""

import pytest

from lowcomm_node.core.chance import Chance
from lowcomm_node.core.commands import (
    CloseLink,
    Command,
    DropMeeting,
    EncodeOffer,
    OpenLink,
    ReportMeeting,
    Send,
    SettleMeeting,
)
from lowcomm_node.core.deadlines import Deadlines, Wait
from lowcomm_node.core.events import CloseEncoded, CorrectionApplied, EncodingRefused, Member, OfferEncoded
from lowcomm_node.core.initiator import InitiatingEnd
from lowcomm_node.core.messages import Answer, Close, Confirm, Offer, Verdict
from lowcomm_node.core.partners import Partners
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import LinkKind, MeetingId, PeerId, RunId, Stream

_DEADLINE_S = 5.0


def end_with_offer(
    verdict_keep_s: float = 30.0,
    partners: Partners | None = None,
    deadlines: Deadlines | None = None,
    *,
    is_encoded: bool = True,
) -> tuple[InitiatingEnd, MeetingId]:
    """An initiating end whose offer to its one partner is out, or still being encoded, at time 0."""
    partners = Partners(PeerId("a"), 4, Chance(b"p")) if partners is None else partners
    member = Member(peer=PeerId("b"), grpc_address="x:1", progress_steps=0, has_state=True, expires_at=1e9)
    partners.see(member, 0.0)
    end = InitiatingEnd(
        own=PeerId("a"),
        run_id=RunId("r"),
        protocol_version=1,
        deadlines=deadlines or Deadlines(shortest_s=_DEADLINE_S, longest_s=_DEADLINE_S),
        verdict_keep_s=verdict_keep_s,
        partners=partners,
        chance=Chance(b"m"),
    )
    (encode,) = end.start((Stream.PARAMS,), False, 0.0)
    assert isinstance(encode, EncodeOffer)
    if not is_encoded:
        return end, encode.meeting_id
    encoded = OfferEncoded(meeting_id=encode.meeting_id, plans=(), parts=(b"1",), progress_steps=0, weight=0.4)
    (link,) = end.offer_encoded(encoded, 0.0)
    assert isinstance(link, OpenLink)
    assert isinstance(link.message, Offer)
    assert link.message.weight == 0.4
    return end, encode.meeting_id


def end_with_close(
    verdict_keep_s: float = 30.0, *, partners: Partners | None = None, deadlines: Deadlines | None = None
) -> tuple[InitiatingEnd, MeetingId]:
    """The same, with the close out at time 0."""
    end, meeting = end_with_offer(verdict_keep_s, partners=partners, deadlines=deadlines)
    end.answered(Answer(meeting_id=meeting, parts=(b"",), progress_steps=0), 0.0)
    end.close_encoded(CloseEncoded(meeting_id=meeting, parts=(b"",)), 0.0)
    return end, meeting


def outcomes(commands: list[Command]) -> list[tuple[str, str]]:
    return [(command.outcome, command.reason) for command in commands if isinstance(command, ReportMeeting)]


def reopened(commands: list[Command]) -> list[OpenLink]:
    """What these commands open connections for."""
    return [command for command in commands if isinstance(command, OpenLink)]


def opened(commands: list[Command]) -> list[Close]:
    """The closes that these commands send over new connections."""
    messages = [command.message for command in commands if isinstance(command, OpenLink)]
    return [message for message in messages if isinstance(message, Close)]


def test_each_retry_of_a_close_has_the_whole_deadline() -> None:
    """Long after the close first went out, a new connection is not cut at the next tick: a slow line needs longer."""
    end, meeting = end_with_close()
    end.link_failed(meeting, "disconnect", _DEADLINE_S + 1)
    assert len(opened(end.ticked(_DEADLINE_S + 2))) == 1

    assert end.ticked(_DEADLINE_S + 2.25) == []
    assert end.ticked(2 * _DEADLINE_S + 2.5) == [CloseLink(meeting_id=meeting)]


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_close_that_is_turned_away_is_sent_again(is_busy: bool) -> None:
    """Busy (a full house) or a refusal (damaged on the way) is no verdict: the node is free, and asks again soon."""
    end, meeting = end_with_close()

    if is_busy:
        end.busy(meeting, 0.1)
    else:
        end.refused(meeting, "checksum", 0.1)

    assert end.active is None
    assert len(opened(end.ticked(1.0))) == 1


def test_a_close_carries_its_scales_each_time_and_the_report_says_what_was_applied() -> None:
    """Whichever copy of the close arrives, the answerer takes the same multiple of the correction as this end."""
    end, meeting = end_with_offer()
    end.answered(Answer(meeting_id=meeting, parts=(b"",), progress_steps=0), 0.0)
    (sent,) = end.close_encoded(CloseEncoded(meeting_id=meeting, parts=(b"",), scales=(0.5,)), 0.0)
    end.link_failed(meeting, "disconnect", 0.1)
    (again,) = opened(end.ticked(1.0))
    end.verdict_received(Verdict(meeting_id=meeting, applied=True), 1.1)
    norms, scales = ((Stream.PARAMS, 5.0),), ((Stream.PARAMS, 0.5),)
    *_, report = end.settled(CorrectionApplied(meeting_id=meeting, norms=norms, scales=scales), 1.2)

    assert sent == Send(meeting_id=meeting, message=again)
    assert again.scales == (0.5,)
    assert isinstance(report, ReportMeeting)
    assert (report.norms, report.scales) == (norms, scales)


def test_a_report_says_how_long_each_phase_lasted() -> None:
    """Together they are the duration; a phase that came twice, with another partner or over another connection, counts whole."""
    end, meeting = end_with_offer()
    end.link_failed(meeting, "disconnect", 0.5)
    end.answered(Answer(meeting_id=meeting, parts=(b"",), progress_steps=0), 1.0)
    end.close_encoded(CloseEncoded(meeting_id=meeting, parts=(b"",)), 1.25)
    end.verdict_received(Verdict(meeting_id=meeting, applied=True), 3.25)
    *_, report = end.settled(CorrectionApplied(meeting_id=meeting, norms=()), 3.75)

    assert isinstance(report, ReportMeeting)
    phases = {"encoding": 0.0, "offered": 1.0, "closing": 0.25, "closed": 2.0, "settling": 0.5}
    assert dict(report.phases) == phases
    assert sum(phases.values()) == report.duration_s


def test_each_clipped_meeting_counts_against_the_partner() -> None:
    """What was applied whole does not; one clipped stream of several does."""
    partners = Partners(PeerId("a"), 4, Chance(b"p"))
    for scale in (1.0, 0.5):
        end, meeting = end_with_offer(partners=partners)
        end.answered(Answer(meeting_id=meeting, parts=(b"",), progress_steps=0), 0.0)
        end.close_encoded(CloseEncoded(meeting_id=meeting, parts=(b"",)), 0.0)
        end.verdict_received(Verdict(meeting_id=meeting, applied=True), 0.1)
        scales = ((Stream.PARAMS, 1.0), (Stream.EXP_AVG_SQ, scale))
        end.settled(CorrectionApplied(meeting_id=meeting, norms=(), scales=scales), 0.2)

    (view,) = partners.views()
    assert list(view.clipped) == [False, True]
    assert view.meetings == 2


def test_a_refusal_while_the_close_is_being_made_sends_it_over_a_new_connection() -> None:
    """The partner has ended the stream; the close must not be sent into it and waited for."""
    end, meeting = end_with_offer()
    end.answered(Answer(meeting_id=meeting, parts=(b"",), progress_steps=0), 0.0)
    end.refused(meeting, "malformed", 0.1)

    end.close_encoded(CloseEncoded(meeting_id=meeting, parts=(b"",)), 0.2)

    assert len(opened(end.ticked(1.0))) == 1


def test_a_settled_no_ends_an_offer_that_was_sent_again() -> None:
    """The answerer has let the meeting go: its verdict comes in place of an answer, and nothing is waited for."""
    end, meeting = end_with_offer()
    verdict = Verdict(meeting_id=meeting, applied=False, reason=RefusalReason.EXPIRED)

    assert outcomes(end.verdict_received(verdict, 0.1)) == [("failed", "expired")]
    assert end.is_settled()


def test_a_trainer_that_cannot_follow_a_verdict_leaves_a_counted_half() -> None:
    """The answerer has applied; a held correction that is gone must not pass for a meeting that merely failed."""
    end, meeting = end_with_close()
    end.verdict_received(Verdict(meeting_id=meeting, applied=True), 0.1)
    lost = EncodingRefused(meeting_id=meeting, reason=RefusalReason.UNKNOWN_MEETING, detail="")

    assert outcomes(end.encoding_refused(lost, 0.2)) == [("half", "trainer")]


def test_waiting_a_day_for_a_verdict_raises_nothing() -> None:
    """However long the settings let a correction wait, the pause between two tries stays a number."""
    end, meeting = end_with_close(verdict_keep_s=86400.0)

    tries = 0
    for number in range(1500):
        end.link_failed(meeting, "unreachable", 11.0 * number)
        tries += len(opened(end.ticked(11.0 * number + 10.9)))

    assert tries > 1100


def test_a_verdict_is_confirmed_when_it_has_been_followed_and_not_before() -> None:
    """A confirmation in advance would call a meeting completed whose initiator dies before it has applied its half."""
    end, meeting = end_with_close()
    verdict = Verdict(meeting_id=meeting, applied=True)

    assert end.verdict_received(verdict, 0.1) == [SettleMeeting(meeting_id=meeting)]
    assert end.verdict_received(verdict, 0.2) == []
    sent, _ = end.settled(CorrectionApplied(meeting_id=meeting, norms=()), 0.3)

    assert sent == Send(meeting_id=meeting, message=Confirm(meeting_id=meeting))


def followed(verdict_keep_s: float = 30.0) -> tuple[InitiatingEnd, MeetingId]:
    """The verdict was followed and the confirmation is out, at time 0; nobody has said it back."""
    end, meeting = end_with_close(verdict_keep_s)
    end.verdict_received(Verdict(meeting_id=meeting, applied=True), 0.0)
    end.settled(CorrectionApplied(meeting_id=meeting, norms=()), 0.0)
    return end, meeting


def test_a_confirmation_is_said_again_until_it_is_heard() -> None:
    """A lost one would make a half meeting of a whole one. The node is free meanwhile; what was heard is not said again."""
    end, meeting = followed()
    assert end.active is None
    assert not end.is_settled()

    assert end.ticked(_DEADLINE_S - 0.1) == []
    (link,) = reopened(end.ticked(_DEADLINE_S + 0.1))
    end.link_failed(meeting, "unreachable", 6.0)
    (again,) = reopened(end.ticked(8.5))
    heard = end.confirmation_heard(meeting)

    assert link.message == again.message == Confirm(meeting_id=meeting)
    assert (again.peer, again.link) == (PeerId("b"), LinkKind.GRPC)
    assert heard == [CloseLink(meeting_id=meeting)]
    assert end.is_settled()
    assert end.ticked(20.0) == []


def test_a_confirmation_is_given_up_when_verdicts_are_forgotten() -> None:
    """Its answerer is gone, or has counted already: connections to nobody have an end."""
    end, meeting = followed()

    said = [reopened(end.ticked(float(second))) for second in range(1, 40)]

    assert 2 <= sum(map(len, said)) <= 6
    assert said[30:] == [[]] * 9
    assert end.is_settled()
    assert end.confirmation_heard(meeting) == []


@pytest.mark.parametrize("applied", [True, False])
def test_a_trainer_that_dies_after_the_close_waits_for_the_verdict(applied: bool) -> None:
    """It tells whether the partner has applied its half: a meeting that nobody has applied is none that is half."""
    end, meeting = end_with_close()

    assert end.trainer_lost(0.1) == []
    assert end.active is None
    verdict = Verdict(meeting_id=meeting, applied=applied, reason=None if applied else RefusalReason.CHECKSUM)
    assert outcomes(end.verdict_received(verdict, 0.2)) == [("half" if applied else "failed", "trainer")]
    assert end.is_settled()


@pytest.mark.parametrize("ending", ["link", "silence", "refused", "no link"])
def test_what_no_verdict_tells_after_a_trainers_death_counts_as_half(ending: str) -> None:
    """The close is not sent again: a partner that has not got it would apply it now, for nobody."""
    end, meeting = end_with_close()
    if ending == "no link":
        end.link_failed(meeting, "disconnect", 0.05)
    commands = end.trainer_lost(0.1)
    match ending:
        case "link":
            commands = end.link_failed(meeting, "disconnect", 0.2)
        case "silence":
            commands = end.ticked(_DEADLINE_S + 0.1)
        case "refused":
            commands = end.refused(meeting, "not_ready", 0.2)

    assert outcomes(commands) == [("half", "trainer")]
    assert reopened([*commands, *end.ticked(20.0)]) == []
    assert end.is_settled()


def test_a_confirmation_finds_its_way_when_the_connection_is_gone() -> None:
    """Otherwise the answerer would count a half meeting that is none."""
    end, meeting = end_with_close()
    end.verdict_received(Verdict(meeting_id=meeting, applied=True), 0.1)
    end.link_failed(meeting, "disconnect", 0.2)

    sent, _ = end.settled(CorrectionApplied(meeting_id=meeting, norms=()), 0.3)

    assert isinstance(sent, OpenLink)
    assert sent.message == Confirm(meeting_id=meeting)


def test_an_offer_that_is_still_moving_is_not_cut_off() -> None:
    """A large payload on a slow line is waited for as long as it moves; then a partner that freezes is noticed soon."""
    end, meeting = end_with_offer()
    for second in range(1, 100):
        end.progressed(meeting, float(second))
        assert end.ticked(second + 0.5) == []

    assert outcomes(end.ticked(99 + _DEADLINE_S + 0.1)) == [("failed", "timeout")]
    assert end.active is None


def test_a_partner_that_freezes_costs_the_learnt_deadline_and_not_the_longest() -> None:
    """Where answers and verdicts come in tenths of a second, a node is free again after some, whatever the setting allows."""
    for freezes_in in ("offered", "closed"):
        deadlines = Deadlines(shortest_s=1.0, longest_s=60.0)
        for wait in Wait:
            for is_dense in (False, True):
                for _ in range(20):
                    deadlines.kept(wait, is_dense, 0.1)
        end, meeting = end_with_offer(verdict_keep_s=300.0, deadlines=deadlines)
        if freezes_in == "closed":
            end.answered(Answer(meeting_id=meeting, parts=(b"",), progress_steps=0), 0.0)
            end.close_encoded(CloseEncoded(meeting_id=meeting, parts=(b"",)), 0.0)

        end.ticked(1.25)

        assert end.active is None, freezes_in


def test_a_late_partner_gives_way_to_one_that_is_there() -> None:
    """The incident: all who had asked a sleeping node turned each other away until their deadlines were over."""
    partners = Partners(PeerId("a"), 4, Chance(b"p"))
    deadlines = Deadlines(shortest_s=1.0, longest_s=60.0)
    end, meeting = end_with_offer(partners=partners, deadlines=deadlines)
    someone = PeerId("c")

    assert not end.yields_to(someone, 0.9)
    assert end.yields_to(someone, 1.1)
    assert end.yield_active(someone, 1.1) == []

    assert end.active is None
    assert end.knows(meeting)
    assert partners.choose(1.2, frozenset()) is None  # the late one is left alone for a while


def test_a_late_answer_is_as_good_as_any() -> None:
    """The node is free for others from when the answer is late, and the meeting goes on when it comes."""
    deadlines = Deadlines(shortest_s=1.0, longest_s=60.0)
    end, meeting = end_with_offer(deadlines=deadlines)

    assert end.ticked(0.9) == []
    assert end.phase() == "offered"
    assert end.ticked(1.1) == []
    assert end.phase() == ""

    assert end.answered(Answer(meeting_id=meeting, parts=(b"",), progress_steps=0), 9.0) != []
    assert end.close_encoded(CloseEncoded(meeting_id=meeting, parts=(b"",)), 9.1) != []
    end.verdict_received(Verdict(meeting_id=meeting, applied=True), 9.2)
    applied = CorrectionApplied(meeting_id=meeting, norms=(), scales=())
    assert outcomes(end.settled(applied, 9.3)) == [("completed", "")]
    assert end.missed == set()


def test_who_is_busy_in_the_end_is_not_followed_by_another() -> None:
    """The node may be in another meeting by then: the late one comes to nothing, and its turn comes again."""
    end, meeting = end_with_offer(deadlines=Deadlines(shortest_s=1.0, longest_s=60.0))
    end.ticked(1.1)

    assert outcomes(end.busy(meeting, 5.0)) == [("failed", "busy")]
    assert end.missed == {Stream.PARAMS}


def test_only_an_offer_gives_way_to_others() -> None:
    """From the answer on the partner has shown that it is there, and has done its part."""
    end, meeting = end_with_offer()
    end.answered(Answer(meeting_id=meeting, parts=(b"",), progress_steps=0), 0.0)

    assert not end.yields_to(PeerId("c"), _DEADLINE_S - 0.1)


def test_a_turn_that_came_to_nothing_is_remembered() -> None:
    """Whether the partner was silent, or there was nobody to ask at all; a meeting that was completed is none."""
    silent, _ = end_with_offer()
    silent.ticked(_DEADLINE_S + 0.1)
    assert silent.missed == {Stream.PARAMS}

    silent.missed.clear()
    assert silent.start((Stream.PARAMS,), False, _DEADLINE_S + 0.2) == []  # its only partner is suspect now
    assert silent.missed == {Stream.PARAMS}

    done, meeting = end_with_close()
    done.verdict_received(Verdict(meeting_id=meeting, applied=True), 0.2)
    done.settled(CorrectionApplied(meeting_id=meeting, norms=(), scales=()), 0.3)
    assert done.missed == set()


def test_a_node_is_free_again_when_its_close_is_out() -> None:
    """The partner's trainer ends its step before it applies: nothing that this node could do hangs on it. Both meetings count."""
    end, first = end_with_close()
    assert end.phase() == ""
    assert end.yields_to(PeerId("c"), 0.1)

    (encode,) = end.start((Stream.PARAMS,), False, 0.2)
    assert isinstance(encode, EncodeOffer)
    assert end.active == encode.meeting_id
    end.verdict_received(Verdict(meeting_id=first, applied=True), 0.3)
    applied = CorrectionApplied(meeting_id=first, norms=(), scales=())

    assert outcomes(end.settled(applied, 0.4)) == [("completed", "")]
    assert end.active == encode.meeting_id


def test_a_partner_whose_verdict_is_late_is_left_alone_once() -> None:
    """As with a late answer: it may be frozen. Each look at the same silence must not count as one more failure."""
    partners = Partners(PeerId("a"), 4, Chance(b"p"))
    deadlines = Deadlines(shortest_s=1.0, longest_s=60.0)
    end, _ = end_with_close(partners=partners, deadlines=deadlines)

    assert end.ticked(0.9) == []
    assert partners.choose(0.9, frozenset()) is not None
    for tenths in range(11, 20):
        assert end.ticked(tenths / 10) == []
    (view,) = partners.views()

    assert partners.choose(2.0, frozenset()) is None
    assert view.failures == 1


@pytest.mark.parametrize("has_answer", [False, True])
def test_a_trainer_that_encodes_for_ever_does_not_hold_the_meeting(has_answer: bool) -> None:
    """Nothing was applied yet, so giving up is free; what it encodes in the end is dropped. The partner is not blamed."""
    partners = Partners(PeerId("a"), 4, Chance(b"p"))
    end, meeting = end_with_offer(partners=partners, is_encoded=has_answer)
    if has_answer:
        end.answered(Answer(meeting_id=meeting, parts=(b"",), progress_steps=0), 0.0)

    assert end.ticked(_DEADLINE_S) == []
    assert outcomes(end.ticked(_DEADLINE_S + 0.1)) == [("failed", "timeout")]

    assert end.is_settled()
    assert end.close_encoded(CloseEncoded(meeting_id=meeting, parts=(b"",)), 9.0) == [DropMeeting(meeting_id=meeting)]
    assert partners.choose(9.0, frozenset()) is not None
