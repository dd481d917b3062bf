"""The meeting protocol as a whole: two or more real cores against each other, in virtual time."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import partial

import pytest

from lowcomm_node.core.commands import (
    Command,
    EncodeAnswer,
    EncodeOffer,
    NoteRefusal,
    OpenLink,
    ReportMeeting,
    Send,
    SettleMeeting,
)
from lowcomm_node.core.events import (
    AnswerEncoded,
    CorrectionApplied,
    DrainRequested,
    EncodingRefused,
    Event,
    LineChanged,
    Member,
    MembersSeen,
    MessageReceived,
    OfferEncoded,
    PauseChanged,
    StepsTaken,
    Ticked,
    TrainerLost,
    TrainerReady,
)
from lowcomm_node.core.messages import Answer, Busy, Close, Confirm, Offer, Refusal, Verdict
from lowcomm_node.core.node import NodeCore
from lowcomm_node.errors import RefusalReason
from lowcomm_node.sim.swarm import VirtualSwarm, rules
from lowcomm_node.units import MeetingId, PeerId, RunId
from tests.core.exact_trainer import PLAN, ExactTrainer, exact_swarm

SEEDS = range(150)


def applied_counts(swarm: VirtualSwarm[ExactTrainer]) -> Counter[MeetingId]:
    return Counter(meeting for node in swarm.nodes.values() for meeting in node.trainer.applied)


def test_quiet_network_mixes_and_conserves() -> None:
    """Without faults every meeting completes at both ends, nothing is half, and the mean follows the drifts only."""
    swarm = exact_swarm(5, seed=1, faults=0.0)
    total = sum(node.trainer.value for node in swarm.nodes.values())
    swarm.run(60.0)
    swarm.settle()

    reports = [report for node in swarm.nodes.values() for report in node.reports]
    drift = sum((node.trainer.drift for node in swarm.nodes.values()), Fraction(0))
    assert sum(node.trainer.value for node in swarm.nodes.values()) == total + drift
    assert sum(report.outcome == "completed" for report in reports) > 100
    assert {report.reason for report in reports if report.outcome != "completed"} <= {"busy", "yielded"}
    assert all(node.core.is_settled() for node in swarm.nodes.values())


@pytest.mark.parametrize("faults", [0.05, 0.3])
def test_no_half_meeting_whatever_the_network_does(faults: float) -> None:
    """Dropped, swallowed and repeated messages, dead connections: applied by both ends or by neither, at most once."""
    completed = 0
    for seed in SEEDS:
        swarm = exact_swarm(4, seed=seed, faults=faults)
        total = sum(node.trainer.value for node in swarm.nodes.values())
        swarm.run(20.0)
        swarm.settle()

        counts = applied_counts(swarm)
        drift = sum((node.trainer.drift for node in swarm.nodes.values()), Fraction(0))
        assert set(counts.values()) <= {2}, f"seed {seed}"
        assert sum(node.trainer.value for node in swarm.nodes.values()) == total + drift, f"seed {seed}"
        assert all(node.core.is_settled() for node in swarm.nodes.values()), f"seed {seed}"
        for node in swarm.nodes.values():
            trainer = node.trainer
            assert not trainer.pending(), f"seed {seed}"
            assert len(trainer.applied) == len(set(trainer.applied)), f"seed {seed}"
        completed += len(counts)
    assert completed > len(SEEDS)


def test_lost_trainers_leave_only_counted_halves() -> None:
    """When a trainer dies, a meeting applied by one end only is reported as half by the end that lost its part."""
    halves = 0
    for seed in SEEDS:
        swarm = exact_swarm(4, seed=seed, faults=0.05)
        for second in range(1, 20):
            swarm.at(second + 0.37, partial(swarm.lose_trainer, swarm[second % 4]))
        swarm.run(20.0)
        swarm.settle()

        half_applied = {meeting for meeting, count in applied_counts(swarm).items() if count == 1}
        reported = {r.meeting_id for node in swarm.nodes.values() for r in node.reports if r.outcome == "half"}
        assert max(applied_counts(swarm).values()) <= 2
        assert half_applied <= reported, f"seed {seed}"
        halves += len(half_applied)
    assert halves > 0, "the test never hit the window it is about"


def test_a_seed_replays_exactly() -> None:
    """The core draws nothing from outside: the same seed gives the same history."""
    histories = []
    for _ in range(2):
        swarm = exact_swarm(4, seed=7, faults=0.2)
        swarm.run(15.0)
        histories.append([(n.name, n.trainer.value, tuple(n.reports)) for n in swarm.nodes.values()])
    assert histories[0] == histories[1]


def core_with_partner(own: str, partner: str) -> NodeCore:
    core = NodeCore(rules(own))
    member = Member(peer=PeerId(partner), grpc_address="x:1", progress_steps=0, has_state=True, expires_at=1e9)
    core.handle(MembersSeen(members=(member,)), 0.0)
    core.handle(TrainerReady(), 0.0)
    return core


def test_what_was_due_before_a_restart_is_due_after_it() -> None:
    """The schedule travels with the checkpoint: it comes back with the trainer, and is what the next checkpoint will have."""
    core = core_with_partner("a", "b")
    stream = next(iter(rules("a").periods))

    core.handle(TrainerReady(due=((stream, 77),)), 0.0)

    assert core.due() == {stream: 77}
    assert core.handle(StepsTaken(steps=76), 0.0) == []
    assert [type(command) for command in core.handle(StepsTaken(steps=77), 0.0)] == [EncodeOffer]
    assert core.due()[stream] > 77


def start_offer(core: NodeCore) -> OpenLink:
    """Drive a core until its own offer is out."""
    steps = 0
    while True:
        steps += 1
        commands = core.handle(StepsTaken(steps=steps), 0.0)
        if commands:
            break
    encode = commands[0]
    assert isinstance(encode, EncodeOffer)
    encoded = OfferEncoded(meeting_id=encode.meeting_id, plans=(PLAN,), parts=(b"1",), progress_steps=0)
    (opened,) = core.handle(encoded, 0.0)
    assert isinstance(opened, OpenLink)
    return opened


def offer_from(sender: str, receiver: str, meeting: str = "m") -> Offer:
    return Offer(
        meeting_id=MeetingId(meeting),
        run_id=RunId("r"),
        protocol_version=1,
        sender=PeerId(sender),
        receiver=PeerId(receiver),
        plans=(PLAN,),
        parts=(b"1",),
        progress_steps=0,
    )


def test_simultaneous_offers_go_to_the_smaller_peer_id() -> None:
    """Two nodes that offer to each other at once have one meeting, not two refusals."""
    low, high = core_with_partner("a", "b"), core_with_partner("b", "a")
    offer_low, offer_high = start_offer(low), start_offer(high)

    at_low = low.handle(MessageReceived(message=offer_high.message), 0.1)
    at_high = high.handle(MessageReceived(message=offer_low.message), 0.1)

    assert isinstance(at_low[0], Send)
    assert isinstance(at_low[0].message, Busy)
    assert any(isinstance(command, EncodeAnswer) for command in at_high)


def test_busy_while_in_another_meeting() -> None:
    """One meeting at a time: a third node hears so at once."""
    core = core_with_partner("a", "b")
    start_offer(core)
    (send, _close) = core.handle(MessageReceived(message=offer_from("c", "a")), 0.1)
    assert isinstance(send, Send)
    assert isinstance(send.message, Busy)


def test_an_offer_still_being_encoded_gives_way() -> None:
    """Nobody knows of it yet, so answering somebody else costs nothing and avoids a collision."""
    core = core_with_partner("a", "b")
    steps = 0
    while not core.handle(StepsTaken(steps=(steps := steps + 1)), 0.0):
        pass
    commands = core.handle(MessageReceived(message=offer_from("c", "a")), 0.1)
    assert [type(command) for command in commands] == [EncodeAnswer]


def test_a_meeting_that_came_to_nothing_is_made_up_for_soon() -> None:
    """Who asked in vain asks again before the next regular turn."""
    core = core_with_partner("a", "b")
    opened = start_offer(core)
    stream, period = next(iter(rules("a").periods.items()))
    before = core.due()[stream]
    core.handle(MessageReceived(message=Busy(meeting_id=opened.meeting_id)), 0.1)
    steps = before - (period + 1) // 2 - 1

    assert core.handle(StepsTaken(steps=steps), 0.2) == []

    assert steps < core.due()[stream] < before


def test_draining_node_refuses_offers_and_starts_none() -> None:
    """A leaving node says so."""
    core = core_with_partner("a", "b")
    core.handle(DrainRequested(), 0.0)
    (send, _close) = core.handle(MessageReceived(message=offer_from("b", "a")), 0.0)
    assert isinstance(send, Send)
    assert send.message == Refusal(meeting_id=MeetingId("m"), reason=RefusalReason.LEAVING)
    assert not any(core.handle(StepsTaken(steps=steps), 0.0) for steps in range(100))


def test_a_node_whose_trainer_is_not_there_takes_part_in_no_meeting() -> None:
    """Between a trainer's death and the new one's state, offers are refused: it would answer with initial weights."""
    core = core_with_partner("a", "b")
    core.handle(TrainerLost(), 0.0)
    (send, _close) = core.handle(MessageReceived(message=offer_from("b", "a")), 0.0)
    assert isinstance(send, Send)
    assert send.message == Refusal(meeting_id=MeetingId("m"), reason=RefusalReason.NOT_READY)
    assert not any(core.handle(StepsTaken(steps=steps), 0.0) for steps in range(100))

    core.handle(TrainerReady(), 0.0)
    (command,) = core.handle(MessageReceived(message=offer_from("b", "a")), 0.0)
    assert isinstance(command, EncodeAnswer)


def test_close_of_an_unknown_meeting_is_not_applied() -> None:
    """After a restart the answerer remembers nothing: its verdict is no, so neither end applies."""
    core = core_with_partner("a", "b")
    (send,) = core.handle(MessageReceived(message=Close(meeting_id=MeetingId("zz"), parts=(b"",))), 0.0)
    assert isinstance(send, Send)
    assert send.message == Verdict(meeting_id=MeetingId("zz"), applied=False, reason=RefusalReason.UNKNOWN_MEETING)


def test_a_verdict_nobody_asked_for_changes_nothing() -> None:
    """A made-up verdict never makes the trainer apply anything."""
    core = core_with_partner("a", "b")
    verdict = Verdict(meeting_id=MeetingId("zz"), applied=True)
    assert not any(isinstance(c, SettleMeeting) for c in core.handle(MessageReceived(message=verdict), 0.0))


def test_a_flood_of_offers_never_makes_an_open_verdict_forgotten() -> None:
    """Memory is bounded, but what the initiator has not confirmed stays: its retry must find the verdict."""
    core = core_with_partner("a", "b")

    def meet(index: int) -> list[Command]:
        meeting = MeetingId(f"{index:04x}")
        commands = core.handle(MessageReceived(message=offer_from("b", "a", meeting)), 0.0)
        core.handle(AnswerEncoded(meeting_id=meeting, parts=(b"",), progress_steps=0), 0.0)
        core.handle(MessageReceived(message=Close(meeting_id=meeting, parts=(b"",))), 0.0)
        core.handle(CorrectionApplied(meeting_id=meeting, norms=()), 0.0)
        return commands

    outcomes = [meet(index) for index in range(300)]

    assert sum(isinstance(commands[0], EncodeAnswer) for commands in outcomes) == 256
    last = outcomes[-1][0]
    assert isinstance(last, Send)
    assert isinstance(last.message, Busy)
    (again,) = core.handle(MessageReceived(message=Close(meeting_id=MeetingId("0000"), parts=(b"",))), 0.0)
    assert isinstance(again, Send)
    assert again.message == Verdict(meeting_id=MeetingId("0000"), applied=True)


@pytest.mark.parametrize(
    ("closes", "opens"),
    [
        (LineChanged(is_open=False), LineChanged(is_open=True)),
        (PauseChanged(is_paused=True), PauseChanged(is_paused=False)),
    ],
)
def test_a_closed_line_begins_no_meeting_and_what_was_due_is_met_when_it_opens(closes: Event, opens: Event) -> None:
    """Offers are told Busy, as by a node in a meeting: their senders ask others; a meeting under way is not cut off."""
    swarm = exact_swarm(3, seed=5, faults=0.0)
    swarm.run(10.0)
    closed, *others = swarm.nodes.values()

    closed.core.handle(closes, swarm.now)
    swarm.run(15.0)
    met, met_by_others = len(closed.trainer.applied), [len(node.trainer.applied) for node in others]
    swarm.run(45.0)
    assert len(closed.trainer.applied) == met > 0
    assert all(len(node.trainer.applied) > before for node, before in zip(others, met_by_others, strict=True))
    outcomes = {(report.outcome, report.reason) for node in swarm.nodes.values() for report in node.reports}
    assert {reason for outcome, reason in outcomes if outcome != "completed"} <= {"busy", "yielded"}

    closed.core.handle(opens, swarm.now)
    swarm.run(55.0)
    assert len(closed.trainer.applied) > met


def test_a_node_that_slept_reads_what_has_come_before_it_counts() -> None:
    """The confirmation came while it was frozen: the first tick must not call half what both have applied. The next one counts."""

    def slept() -> tuple[NodeCore, list[Command]]:
        core = NodeCore(rules(PeerId("a"), b"s"))
        core.handle(TrainerReady(), 0.0)
        core.handle(MessageReceived(message=offer_from("b", "a")), 0.0)
        core.handle(AnswerEncoded(meeting_id=MeetingId("m"), parts=(b"1",), progress_steps=0), 0.0)
        core.handle(MessageReceived(message=Close(meeting_id=MeetingId("m"), parts=(b"",))), 0.0)
        core.handle(CorrectionApplied(meeting_id=MeetingId("m"), norms=()), 0.0)
        core.handle(Ticked(), 0.25)
        return core, core.handle(Ticked(), 600.0)

    def outcomes(commands: list[Command]) -> list[str]:
        return [command.outcome for command in commands if isinstance(command, ReportMeeting)]

    core, at_first = slept()
    word = core.handle(MessageReceived(message=Confirm(meeting_id=MeetingId("m"))), 600.1)
    silent, _ = slept()

    assert (outcomes(at_first), outcomes(word)) == ([], ["completed"])
    assert outcomes(silent.handle(Ticked(), 600.25)) == ["half"]


def test_who_has_had_too_much_of_one_asks_another() -> None:
    """With the same offer, as after Busy; the one that has refused is left alone for a while."""
    core = core_with_partner("a", "b")
    member = Member(peer=PeerId("c"), grpc_address="x:1", progress_steps=0, has_state=True, expires_at=1e9)
    core.handle(MembersSeen(members=(member,)), 0.0)
    first = start_offer(core)
    refusal = Refusal(meeting_id=first.meeting_id, reason=RefusalReason.TOO_MANY)

    commands = core.handle(MessageReceived(message=refusal), 0.0)

    (again,) = (command for command in commands if isinstance(command, OpenLink))
    assert {first.peer, again.peer} == {"b", "c"}
    assert again.meeting_id == first.meeting_id
    assert core.partners.counts(1.0) == (1, 1)


def test_what_a_trainer_refuses_is_noted_against_whose_it_was() -> None:
    """An offer and an answer have a sender; what the own trainer cannot encode is nobody's, and what is over neither."""

    def refused(meeting: MeetingId, *, is_offence: bool = True) -> EncodingRefused:
        return EncodingRefused(meeting_id=meeting, reason=RefusalReason.MALFORMED, detail="odd", is_offence=is_offence)

    def notes(commands: list[Command]) -> list[NoteRefusal]:
        return [command for command in commands if isinstance(command, NoteRefusal)]

    note = NoteRefusal(peer=PeerId("b"), reason=RefusalReason.MALFORMED, detail="odd", is_offence=True)
    answerer = core_with_partner("a", "b")
    answerer.handle(MessageReceived(message=offer_from("b", "a")), 0.0)
    assert notes(answerer.handle(refused(MeetingId("m")), 0.0)) == [note]

    initiator = core_with_partner("a", "b")
    meeting = start_offer(initiator).meeting_id
    answer = Answer(meeting_id=meeting, parts=(b"",), progress_steps=0)
    initiator.handle(MessageReceived(message=answer), 0.0)
    assert notes(initiator.handle(refused(meeting, is_offence=False), 0.0)) == [replace(note, is_offence=False)]
    assert initiator.handle(refused(meeting), 0.0) == []

    unlucky = core_with_partner("a", "b")
    steps = 0
    while not (commands := unlucky.handle(StepsTaken(steps=steps), 0.0)):
        steps += 1
    (encode,) = commands
    assert isinstance(encode, EncodeOffer)
    outcome = unlucky.handle(refused(encode.meeting_id, is_offence=False), 0.0)
    assert notes(outcome) == []
    assert [command.reason for command in outcome if isinstance(command, ReportMeeting)] == ["malformed"]

    told = start_offer(core := core_with_partner("a", "b")).meeting_id
    refusal = Refusal(meeting_id=told, reason=RefusalReason.NONFINITE)
    assert notes(core.handle(MessageReceived(message=refusal), 0.0)) == [], "a partner that says it is in trouble"


def test_a_member_that_only_ever_offers_does_not_keep_the_node_from_others() -> None:
    """Ten offers a second for five minutes, none of them closed: a dozen cost the trainer an answer, and another's meetings go on."""
    core = core_with_partner("a", "b")
    answered: Counter[str] = Counter()
    met, refused = 0, 0
    for tenth in range(3000):
        now = tenth / 10
        core.handle(Ticked(), now)
        for sender in ("e", "b") if tenth % 20 == 0 else ("e",):
            meeting = MeetingId(f"{sender} {tenth}")
            commands = core.handle(MessageReceived(message=offer_from(sender, "a", meeting)), now)
            refused += any(isinstance(command, NoteRefusal) for command in commands)
            if not isinstance(commands[-1], EncodeAnswer):
                continue
            answered[sender] += 1
            core.handle(AnswerEncoded(meeting_id=meeting, parts=(b"",), progress_steps=0), now)
            if sender == "b":
                core.handle(MessageReceived(message=Close(meeting_id=meeting, parts=(b"",))), now)
                core.handle(CorrectionApplied(meeting_id=meeting, norms=()), now)
                core.handle(MessageReceived(message=Confirm(meeting_id=meeting)), now)
                met += 1

    assert answered["e"] <= 12
    assert met == answered["b"] >= 100
    assert refused > 2000
