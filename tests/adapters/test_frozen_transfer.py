"""Frozen factors of AB-training, given and fetched by digest: as states are, from a shelf of their own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.grpc_states import grpc_way
from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from lowcomm_node.adapters.state_client import MemberStateClient
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.units import PeerId
from tests.adapters.nodes import RUN, channels_of, run, somebody
from tests.adapters.test_state_transfer import CONTACTS, STATE, FalseDonor, Served, describe, false_donor, written

FROZEN = b"frozen factors" * 1000
DIGEST = describe(FROZEN).snapshot_id.hex()


@asynccontextmanager
async def holder(folder: Path, *, has_it: bool = True, max_downloads: int = 2) -> AsyncIterator[Served]:
    """A member with a state, and perhaps with the frozen factors."""
    state = written(folder, STATE)
    frozen = SnapshotShelf(folder / "frozen", most=4)
    if has_it:
        await frozen.put(written(folder / "made", FROZEN), 0.0)
    served = Served(state, frozen=frozen, max_downloads=max_downloads)
    try:
        await served.start()
        yield served
    finally:
        await served.stop()
        frozen.close()


@asynccontextmanager
async def asker(refused: list[PeerId] | None = None, contacts: Contacts = CONTACTS) -> AsyncIterator[MemberStateClient]:
    """A member that wants them."""
    channels = channels_of(somebody(98), contacts)
    blamed: list[PeerId] = [] if refused is None else refused
    try:
        yield MemberStateClient(
            ways=(grpc_way(channels),),
            protocol_version=1,
            shelf=None,
            on_received=lambda _: None,
            on_refused=lambda peer, _error: blamed.append(peer),
            stall_timeout_s=1.0,
        )
    finally:
        await channels.close()


def test_they_come_from_whoever_has_them(tmp_path: Path) -> None:
    """The first of two that were named has only said so; the other one gives them, and no state is written for it."""

    async def scenario() -> None:
        async with (
            holder(tmp_path / "a", has_it=False) as without,
            holder(tmp_path / "b") as having,
            asker() as client,
        ):
            target = tmp_path / "target"
            await client.download_frozen((without.peer, having.peer), RUN, DIGEST, target, len(FROZEN))
            assert target.read_bytes() == FROZEN
            assert having.sent == [len(FROZEN)]
            assert without.sent == []
            assert having.shelf.fullness.taken == 0  # no state was written

    run(scenario())


def test_states_and_frozen_factors_do_not_push_each_other_out(tmp_path: Path) -> None:
    """However many joiners have snapshots written, the frozen factors of an epoch stay, and the other way round."""

    async def scenario() -> None:
        async with holder(tmp_path / "a") as having, asker() as client:
            for index in range(4):
                await having.shelf.put(written(tmp_path / f"s{index}", bytes([index])), float(index))
            await client.download_frozen((having.peer,), RUN, DIGEST, tmp_path / "target", len(FROZEN))
            assert having.shelf.fullness.taken == 2

    run(scenario())


def test_who_has_none_says_so(tmp_path: Path) -> None:
    """No file is written for a digest that is not here, and nobody named is no member either."""

    async def scenario() -> None:
        async with holder(tmp_path / "a", has_it=False) as without, asker() as client:
            with pytest.raises(RemoteProtocolError) as caught:
                await client.download_frozen((without.peer,), RUN, DIGEST, tmp_path / "t", len(FROZEN))
            assert caught.value.reason is RefusalReason.EXPIRED
            with pytest.raises(LinkError):
                await client.download_frozen((), RUN, DIGEST, tmp_path / "t", len(FROZEN))

    run(scenario())


def test_another_file_in_its_place_is_refused(tmp_path: Path) -> None:
    """What a member describes must be what was asked for; it is held against the member."""

    async def scenario() -> None:
        refused: list[PeerId] = []
        async with false_donor(FalseDonor(STATE, [])) as liar, asker(refused) as client:
            with pytest.raises(RemoteProtocolError) as caught:
                await client.download_frozen((liar,), RUN, DIGEST, tmp_path / "t", len(STATE))
            assert caught.value.reason is RefusalReason.CHECKSUM
            assert refused == [liar]

    run(scenario())


def test_they_are_no_larger_than_the_model_allows(tmp_path: Path) -> None:
    """Refused by their description, before a byte of them is fetched."""

    async def scenario() -> None:
        async with holder(tmp_path / "a") as having, asker() as client:
            with pytest.raises(RemoteProtocolError) as caught:
                await client.download_frozen((having.peer,), RUN, DIGEST, tmp_path / "t", len(FROZEN) - 1)
            assert caught.value.reason is RefusalReason.OVERSIZED
            assert having.sent == []

    run(scenario())


def test_a_busy_holder_is_told_from_one_that_has_nothing(tmp_path: Path) -> None:
    """It will give them later: that is what counts, whatever others say."""

    async def scenario() -> None:
        async with (
            holder(tmp_path / "a", max_downloads=0) as busy,
            holder(tmp_path / "b", has_it=False) as without,
            asker() as client,
        ):
            with pytest.raises(LinkError) as caught:
                await client.download_frozen((busy.peer, without.peer), RUN, DIGEST, tmp_path / "t", len(FROZEN))
            assert caught.value.reason == "busy"

    run(scenario())
