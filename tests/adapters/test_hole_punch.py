"""Who asks whom for a hole, who is let in, and what is refused: scripted p2pds, virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from lowcomm_node.adapters.hole_punch import HolePunch, read_address
from lowcomm_node.errors import DirectoryError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from tests.daemon.virtual_time import run_virtually

ANN, BOB, HUB = PeerId("ann"), PeerId("bob"), PeerId("hub")
ANN_AT, BOB_AT = "9.9.9.1:4001", "[2600::2]:4002"


class World:
    """The p2pd of ``own`` and what stands for the rest; ``self`` is the session and its process."""

    def __init__(self, own: PeerId, *seen: str) -> None:
        self.seen = dict(zip((HUB, PeerId("hub2"), PeerId("hub3")), seen, strict=False))
        """Where each neighbour sees us; empty: it does not say."""
        self.direct: set[PeerId] = set(self.seen)
        self.answer: Callable[[], Coroutine[Any, Any, str]] | None = None
        self.is_cone = True
        """A hole at the other end lets us in."""
        self.holes: list[tuple[str, int]] = []
        self.dialled: list[tuple[PeerId, str, int]] = []
        self.asked: list[str] = []
        self.punch = HolePunch(lambda: self, own, lambda peer: peer != "eve")  # type: ignore[arg-type, return-value]

    @property
    def process(self) -> "World":
        return self

    def open_hole(self, host: str, port: int) -> None:
        self.holes.append((host, port))

    async def reach(self, peer: PeerId) -> None: ...

    async def direct_peers(self) -> list[PeerId]:
        return list(self.direct)

    async def is_direct(self, peer: PeerId) -> bool:
        return peer in self.direct

    async def ask_seen(self, peer: PeerId) -> str:
        if not self.seen[peer]:
            raise DirectoryError("protocols not supported")
        return self.seen[peer]

    async def ask_punch(self, _peer: PeerId, request: records_pb2.PunchRequest) -> records_pb2.PunchResponse:
        self.asked.append(request.address)
        if self.answer is None:
            raise DirectoryError("no answer in 15 s")
        return records_pb2.PunchResponse(address=await self.answer())

    async def dial_anew(self, peer: PeerId, host: str, port: int) -> None:
        self.dialled.append((peer, host, port))
        if self.is_cone:
            self.direct.add(peer)


async def bob_lets_in() -> str:
    return BOB_AT


def test_who_is_let_in_dials_what_it_is_told() -> None:
    """All who see it see the same: that is told; the answer is dialled, and it is a direct connection then."""

    async def life() -> None:
        world = World(ANN, ANN_AT, "", ANN_AT)
        world.answer = bob_lets_in

        assert await world.punch.seek(BOB)
        assert world.asked == [ANN_AT]
        assert world.dialled == [(BOB, "2600::2", 4002)]

    run_virtually(life)


def test_what_libp2p_has_done_by_itself_is_not_done_again() -> None:
    async def life() -> None:
        world = World(ANN, ANN_AT)
        asyncio.get_running_loop().call_later(1.0, world.direct.add, BOB)

        assert await world.punch.seek(BOB)
        assert world.asked == []

    run_virtually(life)


@pytest.mark.parametrize("seen", [(ANN_AT, "9.9.9.1:4002"), ("", ""), ("192.168.1.4:4001",), ()])
def test_who_is_seen_everywhere_else_or_nowhere_asks_nobody(seen: tuple[str, ...]) -> None:
    """A symmetric router, silent neighbours, one of the same network at home, none at all."""

    async def life() -> None:
        world = World(ANN, *seen)
        world.answer = bob_lets_in
        with pytest.raises(DirectoryError):
            await world.punch.seek(BOB)
        assert world.asked == []
        assert world.dialled == []

    run_virtually(life)


def test_a_hole_that_leads_nowhere_is_no_path() -> None:
    """Refused, or a router that keeps no port; and an answer that leads into somebody's home is not dialled."""

    async def life() -> None:
        world = World(ANN, ANN_AT)
        assert not await world.punch.seek(BOB)
        world.answer, world.is_cone = bob_lets_in, False
        assert not await world.punch.seek(BOB)
        assert world.dialled == [(BOB, "2600::2", 4002)]

        async def home() -> str:
            return "10.0.0.1:22"

        world.answer = home
        with pytest.raises(DirectoryError):
            await world.punch.seek(BOB)
        assert len(world.dialled) == 1

    run_virtually(life)


def test_of_two_one_has_a_symmetric_router_and_both_know_at_once() -> None:
    """No hole is made that is of no use, and nobody waits for one."""

    async def life() -> None:
        world = World(BOB, BOB_AT, "[2600::2]:4003")
        response = await world.punch.serve(ANN, records_pb2.PunchRequest(address=ANN_AT))
        assert response.address == ""
        assert world.holes == []

        async def bob_says() -> str:
            return response.address

        other = World(ANN, ANN_AT)
        other.answer = bob_says
        with pytest.raises(DirectoryError, match="its router"):
            await other.punch.seek(BOB)
        assert asyncio.get_running_loop().time() < 3.0

    run_virtually(life)


def test_members_are_let_in_now_and_then_and_others_are_not() -> None:
    """One packet, to an address of the whole internet alone, once in ten seconds for each asker and in one for all."""

    async def life() -> None:
        world = World(BOB, BOB_AT)
        request = records_pb2.PunchRequest(address=ANN_AT)

        assert (await world.punch.serve(ANN, request)).address == BOB_AT
        assert world.holes == [("9.9.9.1", 4001)]
        for asker, address in ((ANN, ANN_AT), (PeerId("eve"), ANN_AT), (HUB, "127.0.0.1:22"), (HUB, "224.0.0.1:5")):
            with pytest.raises(DirectoryError):
                await world.punch.serve(asker, records_pb2.PunchRequest(address=address))
        assert len(world.holes) == 1
        await asyncio.sleep(1.0)
        with pytest.raises(DirectoryError, match="in a moment"):
            await world.punch.serve(ANN, request)
        await asyncio.sleep(9.0)
        await world.punch.serve(ANN, request)
        with pytest.raises(DirectoryError, match="in a moment"):
            await world.punch.serve(HUB, request)
        for number in range(300):
            await asyncio.sleep(1.0)
            await world.punch.serve(PeerId(f"peer {number}"), request)
        assert len(world.holes) == 302

    run_virtually(life)


def test_of_two_that_try_at_once_one_dials() -> None:
    """If both did, each would end the connection that the other is making."""

    async def life() -> None:
        ann, bob = World(ANN, ANN_AT), World(BOB, BOB_AT)

        async def ask(asked: World, asker: PeerId, address: str) -> str:
            await asyncio.sleep(0.1)
            return (await asked.punch.serve(asker, records_pb2.PunchRequest(address=address))).address

        ann.answer = lambda: ask(bob, ANN, ANN_AT)
        bob.answer = lambda: ask(ann, BOB, BOB_AT)
        seeking = asyncio.create_task(bob.punch.seek(ANN))
        assert await ann.punch.seek(BOB)
        bob.direct.add(ANN)
        assert await seeking
        assert ann.dialled == [(BOB, "2600::2", 4002)]
        assert bob.dialled == []

    run_virtually(life)


@pytest.mark.parametrize(
    "text", ["", ":", "9.9.9.9", "9.9.9.9:", "9.9.9.9:0", "9.9.9.9:65536", "9.9.9.9:٣", "x:1", "9" * 99]
)
def test_odd_addresses_are_refused(text: str) -> None:
    with pytest.raises(DirectoryError):
        read_address(text)
