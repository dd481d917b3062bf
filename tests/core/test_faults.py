"""Faults in virtual time: each step of a meeting hit by each fault, and a thousand seeds in which they come as they like."""

from collections.abc import Callable
from functools import partial
from random import Random

import pytest

from lowcomm_node.core.events import (
    AnswerEncoded,
    CloseEncoded,
    CorrectionApplied,
    Event,
    MessageReceived,
    OfferEncoded,
)
from lowcomm_node.core.messages import Answer, Close, Confirm, Message, Offer, Verdict
from lowcomm_node.sim.conditions import Passage
from lowcomm_node.sim.link import VirtualLink, as_bytes, damaged
from lowcomm_node.units import MeetingId, PeerId
from tests.core.fault_swarm import ExactNode, FaultSwarm, doubled

_WARM_UP_S = 4.0

_STEPS: tuple[tuple[str, type[Event], type[Message] | None], ...] = (
    ("offer encoded", OfferEncoded, None),
    ("offer received", MessageReceived, Offer),
    ("answer encoded", AnswerEncoded, None),
    ("answer received", MessageReceived, Answer),
    ("close encoded", CloseEncoded, None),
    ("close received", MessageReceived, Close),
    ("applied by the answerer", CorrectionApplied, None),
    ("verdict received", MessageReceived, Verdict),
    ("applied by the initiator", CorrectionApplied, None),
    ("confirmed", MessageReceived, Confirm),
)
"""All events that carry a meeting on, in their order."""

_HITS: dict[str, Callable[[FaultSwarm, ExactNode], None]] = {
    "crash": lambda swarm, node: swarm.crash(node, is_old=False),
    "crash, older state": lambda swarm, node: swarm.crash(node, is_old=True),
    "crash, disk full before": lambda swarm, node: swarm.crash(node, is_old=True),
    "trainer lost": lambda swarm, node: swarm.lose(node, is_old=False),
    "trainer lost, older state": lambda swarm, node: swarm.lose(node, is_old=True),
    "short freeze": lambda swarm, node: swarm.freeze(node, 1.0),
    "long freeze": lambda swarm, node: swarm.freeze(node, 12.0),
    "connections cut": lambda swarm, node: swarm.cut(node),
    "partition": lambda swarm, node: swarm.part(3.0),
    "clock an hour ahead": lambda swarm, node: swarm.set_clock(node, 3600.0),
    "clock an hour behind": lambda swarm, node: swarm.set_clock(node, -3600.0),
    "diverged": lambda swarm, node: setattr(node.trainer, "is_diverging", True),
}

_FATES: dict[str, Callable[[Message, Random], Passage]] = {
    "swallowed": lambda message, chance: Passage(),
    "lost with its connection": lambda message, chance: Passage((), 0.03),
    "the last of its connection": lambda message, chance: Passage(((0.02, as_bytes(message)),), 0.03),
    "doubled": lambda message, chance: doubled(message),
    "late": lambda message, chance: Passage(((1.5, as_bytes(message)),)),
    "later than any deadline": lambda message, chance: Passage(((4.0, as_bytes(message)),)),
    "damaged": lambda message, chance: Passage(((0.05, damaged(as_bytes(message), chance)),)),
}


def _is_step(name: str, node: ExactNode, event: Event) -> bool:
    found = next(step for step in _STEPS if step[0] == name)
    if not isinstance(event, found[1]):
        return False
    if isinstance(event, MessageReceived):
        return found[2] is not None and isinstance(event.message, found[2])
    is_answerer = node.core._answerer.knows(_meeting_of(event))
    return not isinstance(event, CorrectionApplied) or is_answerer == ("answerer" in name)


def _meeting_of(event: Event) -> MeetingId:
    if isinstance(event, MessageReceived):
        return event.message.meeting_id
    assert isinstance(event, OfferEncoded | AnswerEncoded | CloseEncoded | CorrectionApplied)
    return event.meeting_id


def _on_first(
    swarm: FaultSwarm, step: str, act: Callable[[ExactNode, MeetingId], None]
) -> Callable[[ExactNode, Event], bool]:
    """Acts once, when the warm-up is over and the step comes; true at that moment."""
    acted: list[bool] = []

    def look(node: ExactNode, event: Event) -> bool:
        if acted or swarm.now < _WARM_UP_S or not _is_step(step, node, event):
            return False
        acted.append(True)
        act(node, _meeting_of(event))
        return True

    return look


@pytest.mark.parametrize("is_partner", [False, True])
@pytest.mark.parametrize("step", [name for name, *_ in _STEPS])
@pytest.mark.parametrize("hit", _HITS)
def test_each_step_of_a_meeting_survives_each_fault(step: str, hit: str, is_partner: bool) -> None:
    """At either end, right when the step's commands have been carried out."""
    swarm = FaultSwarm(3, seed=len(step) * 100 + len(hit))
    struck: list[ExactNode] = []

    def strike(node: ExactNode, meeting: MeetingId) -> None:
        link = node.links.get(meeting)
        victim = swarm.nodes[link.other(node.name)] if is_partner and link is not None else node
        struck.append(victim)
        swarm.at(0.0, lambda: _HITS[hit](swarm, victim))

    swarm.watch = _on_first(swarm, step, strike)
    if "disk full" in hit:
        for node in swarm.nodes.values():
            swarm.fill_disk(node, 30.0)
    swarm.run_until(lambda: bool(struck), 60.0)

    assert struck, "the step never came"
    swarm.run(swarm.now + 1.0)
    swarm.check()


@pytest.mark.parametrize("step", [name for name, kind, _ in _STEPS if kind is not MessageReceived])
@pytest.mark.parametrize("is_daemon", [False, True])
@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_what_a_trainer_has_done_and_could_not_say(seed: int, step: str, is_daemon: bool, is_old: bool) -> None:
    """It dies, alone or with its daemon, between doing what was asked and the news of it; the state that comes back may hold it."""
    swarm = FaultSwarm(3, seed=seed)
    struck: list[ExactNode] = []

    def strike(node: ExactNode, meeting: MeetingId) -> None:
        struck.append(node)
        (swarm.crash if is_daemon else swarm.lose)(node, is_old=is_old)

    swarm.intercept = _on_first(swarm, step, strike)
    swarm.run_until(lambda: bool(struck), 60.0)

    assert struck, "the step never came"
    swarm.check()


@pytest.mark.parametrize("is_once", [True, False])
@pytest.mark.parametrize("kind", [Offer, Answer, Close, Verdict, Confirm])
@pytest.mark.parametrize("fate", _FATES)
def test_each_message_survives_each_fate(kind: type[Message], fate: str, is_once: bool) -> None:
    """One message, or every one for a while: swallowed, doubled, late, damaged, or with its connection."""
    swarm = FaultSwarm(3, seed=len(fate))
    chance = Random(fate)
    hits: list[MeetingId] = []

    def decide(link: VirtualLink, sender: PeerId, message: Message) -> Passage | None:
        is_time = _WARM_UP_S <= swarm.now <= _WARM_UP_S + 3.0
        if not is_time or not isinstance(message, kind) or (is_once and hits):
            return None
        hits.append(message.meeting_id)
        return _FATES[fate](message, chance)

    swarm.fate = decide
    swarm.run(_WARM_UP_S + 3.0)

    assert hits, "no such message was sent"
    swarm.check()
    if kind is Confirm:
        assert not swarm.halves(), "a lost word has made a half meeting of a whole one"


def _troubled_swarm(seed: int) -> FaultSwarm:
    """Some seconds of everything at once."""
    chance = Random(f"faults {seed}")
    swarm = FaultSwarm(3 + seed % 2, seed=seed, faults=chance.choice((0.0, 0.02, 0.1, 0.3)))
    hits = list(_HITS)
    for _ in range(chance.randrange(1, 7)):
        hit = _HITS[chance.choice(hits)]
        victim = swarm[chance.randrange(len(swarm.nodes))]
        swarm.at(0.5 + 5.5 * chance.random(), partial(hit, swarm, victim))
    if chance.random() < 0.2:
        swarm.at(2.0 * chance.random(), partial(swarm.fill_disk, swarm[chance.randrange(len(swarm.nodes))], 5.0))
    swarm.run(6.5)
    return swarm


@pytest.mark.parametrize("block", range(20))
def test_a_thousand_seeds_of_everything(block: int) -> None:
    """Whatever comes together: both ends or neither, at most once, nothing pending, nobody wedged, the mean exact."""
    for seed in range(50 * block, 50 * (block + 1)):
        try:
            _troubled_swarm(seed).check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_a_seed_replays_bit_for_bit() -> None:
    """Every event and every command of every node, at the same times: a failure can be looked at as often as it takes."""
    for seed in (3, 17, 101, 257, 999):
        histories = []
        for _ in range(2):
            swarm = _troubled_swarm(seed)
            swarm.check()
            histories.append(swarm.history)
        assert len(histories[0]) > 500
        assert histories[0] == histories[1]
