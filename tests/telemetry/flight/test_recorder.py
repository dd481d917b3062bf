"""The recorder and the replay of what it holds: the same core, the same commands, however the ring has turned."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lowcomm_node.core.commands import Command
from lowcomm_node.core.events import (
    Event,
    Member,
    MembersSeen,
    MessageReceived,
    OfferEncoded,
    RecordRenewed,
    StepsTaken,
    Ticked,
    TrainerReady,
)
from lowcomm_node.core.messages import Close, Offer
from lowcomm_node.core.node import NodeCore
from lowcomm_node.sim.swarm import rules
from lowcomm_node.telemetry.flight.dump import dump_text, read_dump
from lowcomm_node.telemetry.flight.recorder import Entry, FlightRecorder, Recording
from lowcomm_node.telemetry.flight.replay import CommandsDiffer, StateDiffers, replay
from lowcomm_node.telemetry.flight.state import core_of, state_of
from lowcomm_node.telemetry.flight.values import DumpError, Tree
from lowcomm_node.units import MeetingId, PeerId
from tests.core.exact_trainer import PLAN
from tests.telemetry.flight.recorded_swarm import troubled_swarm


@pytest.fixture(scope="module")
def recording() -> Recording:
    """Of a node in a troubled swarm, its ring turned a few times, with commands in it."""
    swarm = troubled_swarm(seed=11)
    return max((r.recording() for r in swarm.recorders.values()), key=lambda r: r.entries[-1].number)


@pytest.mark.parametrize("seed", range(12))
def test_replay_gives_the_same_commands(seed: int) -> None:
    """Every node of a swarm with faults, restarts and lost trainers, from whatever moment its ring begins."""
    swarm = troubled_swarm(seed)

    num_commands = 0
    for recorder in swarm.recorders.values():
        held = recorder.recording()
        outcome = replay(held)
        assert outcome.difference is None
        assert outcome.num_events == len(held.entries)
        assert outcome.raised == ()
        num_commands += outcome.num_commands
    assert num_commands > 50
    assert any(recorder.recording().entries[0].number > 1 for recorder in swarm.recorders.values())


def test_the_ring_is_bounded_and_never_less_than_half_full() -> None:
    """Both in entries and in bytes; a state stands before the first entry and after the last."""
    recorder = FlightRecorder(NodeCore(rules("a")), max_entries=10)
    for number in range(1, 101):
        recorder.handle(Ticked(), float(number))
        held = recorder.recording()
        assert min(number, 5) <= len(held.entries) <= 10
        assert held.entries[-1].number == number
        assert held.states[0][0] == held.entries[0].number
        assert held.states[-1][0] == number + 1
        assert recorder.size()[0] == len(held.entries)


def test_large_events_are_bounded_in_bytes() -> None:
    """A peer that sends what takes much memory shortens the record and does not lengthen it."""
    recorder = FlightRecorder(NodeCore(rules("a")), max_entries=1000, max_bytes=200_000)
    message = Offer(
        meeting_id=MeetingId("m"), run_id=rules("a").run_id, protocol_version=1, sender=PeerId("b"),
        receiver=PeerId("a"), plans=(replace(PLAN, ranks=(1,) * 2000),), parts=(b"x" * 1_000_000,), progress_steps=0,
    )  # fmt: skip
    for number in range(200):
        recorder.handle(MessageReceived(message=message), float(number))

    entries, num_bytes = recorder.size()

    assert 5 < entries < 100
    assert num_bytes < 250_000


def test_no_payload_is_held(recording: Recording) -> None:
    """Nor kept alive by the record: only marks of it are in events, commands and states."""
    recorder = FlightRecorder(NodeCore(rules("a")), max_entries=10)
    secret = b"secret weights" * 1000
    recorder.handle(MessageReceived(message=Close(meeting_id=MeetingId("m"), parts=(secret,))), 0.0)
    recorder.handle(RecordRenewed(member=secret), 1.0)

    assert b"secret" not in repr(recorder.recording()).encode()


def _offers(recorder: FlightRecorder, payload: bytes) -> list[Command]:
    """Drive a core until its offer is out."""
    member = Member(peer=PeerId("b"), grpc_address="x:1", progress_steps=0, has_state=True, expires_at=1e9)
    told: list[Command] = []
    events: list[Event] = [MembersSeen(members=(member,)), RecordRenewed(member=payload), TrainerReady()]
    events += [StepsTaken(steps=step) for step in range(8)]
    for event in events:
        told += recorder.handle(event, 0.0)
    meeting = next(iter(recorder._core._initiator._meetings))
    encoded = OfferEncoded(meeting_id=meeting, plans=(PLAN,), parts=(payload,), progress_steps=0)
    return told + recorder.handle(encoded, 1.0)


def test_decisions_do_not_depend_on_payloads() -> None:
    """What makes marks good enough: with other payloads the same events give the same commands around them."""
    long = FlightRecorder(NodeCore(rules("a")), max_entries=100)
    short = FlightRecorder(NodeCore(rules("a")), max_entries=100)

    with_long, with_short = _offers(long, b"payload" * 10_000), _offers(short, b"")

    assert [type(command) for command in with_long] == [type(command) for command in with_short]
    for recorder in (long, short):
        outcome = replay(recorder.recording())
        assert outcome.difference is None
        assert outcome.num_commands == len(with_long)


def test_a_state_is_exact(recording: Recording) -> None:
    """A core made of a recorded state remembers exactly that."""
    for _, state in recording.states:
        assert state_of(core_of(state, {})) == state


def test_a_changed_command_is_found_where_it_stands(recording: Recording) -> None:
    """The first difference is told with what was recorded and what comes out."""
    at = next(i for i, entry in enumerate(recording.entries) if entry.commands and i > 3)
    tampered = _with(recording, at, replace(recording.entries[at], commands=()))

    difference = replay(tampered).difference

    assert isinstance(difference, CommandsDiffer)
    assert difference.entry.number == recording.entries[at].number
    assert difference.commands == recording.entries[at].commands


def test_until_stops_before_a_difference(recording: Recording) -> None:
    """Everything up to an event can be confirmed."""
    at = next(i for i, entry in enumerate(recording.entries) if entry.commands and i > 3)
    tampered = _with(recording, at, replace(recording.entries[at], commands=()))

    outcome = replay(tampered, until=recording.entries[at].number - 1)

    assert outcome.difference is None
    assert outcome.num_events == at


def test_a_silent_change_of_memory_is_found(recording: Recording) -> None:
    """An event that was changed and led to no other command yet shows at the next state."""
    assert len(recording.states) == 3
    last = len(recording.entries) - 1
    tampered = _with(recording, last, replace(recording.entries[last], event=StepsTaken(steps=0), commands=()))

    difference = replay(tampered).difference

    assert isinstance(difference, StateDiffers)
    assert difference.before == recording.states[-1][0]
    assert "_schedule._steps" in {path for path, _, _ in difference.attributes}


def _older(tree: Tree) -> Tree:
    """As it was written before events had a ``work_s``."""
    if isinstance(tree, dict):
        return {key: _older(value) for key, value in tree.items() if key != "work_s"}
    return [_older(item) for item in tree] if isinstance(tree, list) else tree


def test_a_field_that_is_newer_than_the_recording_is_no_difference(recording: Recording, tmp_path: Path) -> None:
    """The core keeps some events in its memory: what it did not know of them then is not compared, all else is."""
    text = dump_text({}, recording)
    older = json.dumps(_older(json.loads(text)))
    assert "work_s" in text.partition('"entries"')[0]
    path = tmp_path / "older.json"
    path.write_text(older)

    held = read_dump(path).recording

    assert held is not None
    assert replay(held).difference is None


class _Broken(NodeCore):
    """A core with a bug."""

    def handle(self, event: Event, now: float) -> list[Command]:
        if isinstance(event, StepsTaken) and event.steps == 3:
            raise KeyError("a bug")
        return super().handle(event, now)


def test_a_failing_core_is_recorded_told_and_not_hidden() -> None:
    """The event that broke it is the last one held; a repaired core differs just there."""
    told: list[Exception] = []
    recorder = FlightRecorder(_Broken(rules("a")), max_entries=100, on_failure=told.append)
    recorder.handle(TrainerReady(), 0.0)

    with pytest.raises(KeyError) as raised:
        recorder.handle(StepsTaken(steps=3), 1.0)

    assert told == [raised.value]
    held = recorder.recording()
    assert held.entries[-1] == Entry(number=2, now=1.0, event=StepsTaken(steps=3), raised="KeyError")
    difference = replay(held).difference
    assert isinstance(difference, CommandsDiffer)
    assert difference.raised == ""


def test_a_core_that_fails_again_in_the_replay_is_equal(recording: Recording) -> None:
    """The bug is still there, and the outcome says at which event."""
    state = {path: dict(attributes) for path, attributes in recording.states[0][1].items()}
    state["_schedule"]["_due_at"] = {"$dict": [["params", None]]}
    entry = Entry(number=1, now=0.0, event=StepsTaken(steps=10**6), raised="TypeError")

    outcome = replay(Recording(states=((1, state),), draws={}, entries=(entry,)))

    assert outcome.difference is None
    assert outcome.raised == (1,)


def test_the_seed_is_not_held_and_the_draws_are(recording: Recording) -> None:
    """A dump must not tell what the node will choose next, and needs what it has chosen."""
    recorder = FlightRecorder(NodeCore(rules("a", b"very secret seed")), max_entries=100)
    _offers(recorder, b"payload")
    held = recorder.recording()

    assert "very secret seed" not in repr(held)
    assert b"very secret seed".hex() not in repr(held)
    assert sum(map(len, held.draws.values())) > 0
    broken = replace(held, draws={})
    assert isinstance(replay(broken).difference, CommandsDiffer)


@pytest.mark.parametrize(
    ("path", "name", "value", "message"),
    [
        ("", "rules", None, "no rules"),
        ("", "_is_ready", "yes", "cannot be str"),
        ("partners", "_charm", 1, "no partners._charm"),
        ("_wealth", "_x", 1, "no part '_wealth'"),
    ],
)
def test_a_state_of_another_core_is_one_error(
    recording: Recording, path: str, name: str, value: object, message: str
) -> None:
    """Nothing is put into a core that it does not know."""
    state = {key: dict(attributes) for key, attributes in recording.states[0][1].items()}
    state.setdefault(path, {})[name] = value  # type: ignore[assignment]

    with pytest.raises(DumpError, match=message):
        replay(replace(recording, states=((1, state),)))


def _with(recording: Recording, at: int, entry: Entry) -> Recording:
    entries = list(recording.entries)
    entries[at] = entry
    return replace(recording, entries=tuple(entries))
