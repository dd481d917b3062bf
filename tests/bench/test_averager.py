"""Rounds of averaging: what is reckoned from words, and a meeting of two peers over the real link."""

import asyncio
import math
from pathlib import Path

import pytest

from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.bench.averager import OURS, Round, figures_of, needed_bytes, rounds_of, spread_of
from lowcomm_node.bench.averager_load import Order, PeerLoad, PeerState, Word
from lowcomm_node.bench.averager_meetings import CODINGS, MeetingPeer
from lowcomm_node.bench.link_load import LinkLoad
from lowcomm_node.bench.requests import AveragerRequest
from lowcomm_node.errors import ConfigError

_THEIRS = ("float16", "none")


def test_spread_of_pairs_that_average_is_that_of_their_means() -> None:
    """Distance from the mean, per number: independent peers come nearer by the root of two in pairs, on average."""
    assert spread_of([(1.0, 5.0), (3.0, 5.0)]) == pytest.approx(math.sqrt(0.5))
    assert spread_of([(2.0, 2.0), (2.0, 2.0)]) == 0.0
    assert math.isnan(spread_of([]))


def test_figures_count_the_killed_one_nowhere() -> None:
    """Of four peers one is killed, one says that it failed, one says nothing in time, one is done."""
    before = [Word(sample=(float(index),)) for index in range(4)]
    words = [Word(seconds=2.0, group=2, sample=(1.0,)), None, Word(failure="disconnect", sample=(2.0,)), None]

    found = figures_of(
        Round("hivemind", "none", 2, is_struck=True), words, before, wall_s=9.0, num_bytes=400, cpu_s=1.0, memory_bytes=0, killed=1
    )  # fmt: skip

    assert (found.finished, found.median_s, found.bytes_per_peer) == (1, 2.0, 100.0)
    assert found.failures == {"disconnect": 1, "no answer": 1}
    assert found.groups == {2: 1}
    assert math.isnan(found.spread_ratio)
    assert found.moved_share == 0.5  # the first one's number is another, the third one's is not


def test_one_round_is_for_nothing() -> None:
    kinds = [(r.coding, r.group, r.is_measured) for r in rounds_of(OURS, ("a", "b"), 2, 1)]

    assert kinds == [("a", 2, False), ("a", 2, True), ("b", 2, True)]
    assert rounds_of(OURS, (), 2, 1) == []


def test_codings_that_send_more_need_more_memory() -> None:
    """Eight peers of 128 million parameters: 16 bits fit into 16 GiB, 32 do not."""
    needed = {coding: needed_bytes(coding, 8, 127_823_616) / 2**30 for coding in (*CODINGS, *_THEIRS)}

    assert (
        max(needed["default"], needed["whole-bf16"], needed["float16"]) < 16 < min(needed["whole-fp32"], needed["none"])
    )


@pytest.mark.parametrize(
    "request_",
    [
        AveragerRequest(model="126m"),
        AveragerRequest(peers=3),
        AveragerRequest(groups=(3,)),
        AveragerRequest(rounds=0),
        AveragerRequest(patience_s=1),
    ],
)
def test_what_cannot_work_is_refused(request_: AveragerRequest) -> None:
    with pytest.raises(ConfigError, match="--"):
        request_.check()


def test_two_peers_meet_over_the_real_link(tmp_path: Path) -> None:
    """The whole state in fp32 leaves them equal, for a payload of it each; the default codec leaves most of the difference, for an eighth of a byte a number."""
    whole, part = asyncio.run(_meetings(tmp_path))

    num_bytes = 4 * 1_070_464
    assert [word.failure for word in (*whole, *part)] == [""] * 4
    assert [word.payload_bytes for word in whole] == [num_bytes, num_bytes]
    assert spread_of([word.sample for word in whole]) < 1e-6
    assert max(word.payload_bytes for word in part) <= num_bytes // 32


async def _meetings(tmp_path: Path) -> tuple[list[Word], list[Word]]:
    folders = [tmp_path / str(index) for index in range(2)]
    for folder in folders:
        folder.mkdir()
    loads = [PeerLoad(model="1m", index=index, folder=str(folder)) for index, folder in enumerate(folders)]
    states = [PeerState(load) for load in loads]
    links = [
        LinkLoad(carrier="grpc", host="127.0.0.1", is_answerer=True, folder=load.folder, offer_bytes=10**7)
        for load in loads
    ]
    identities = [load_or_create(folder / "identity.key") for folder in folders]
    answerer = MeetingPeer(loads[1], links[1], identities[1], states[1])
    dialling = LinkLoad(
        carrier="grpc", host="127.0.0.1", is_answerer=False, folder=loads[0].folder, offer_bytes=10**7, peer=await answerer.start()
    )  # fmt: skip
    dialler = MeetingPeer(loads[0], dialling, identities[0], states[0])
    await dialler.start()
    try:
        rounds = []
        for number, coding in enumerate(("whole-fp32", "default")):
            for state in states:
                state.drift(number)
            order = Order(what="round", coding=coding, patience_s=60.0)
            rounds.append(await asyncio.gather(answerer.round(order), dialler.round(order)))
        return list(rounds[0]), list(rounds[1])
    finally:
        await dialler.stop()
        await answerer.stop()
