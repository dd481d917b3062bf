"""How others get to a node: measured by asking, announced when it is so, asked again in time. Scripted members, virtual time."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from lowcomm_node.adapters.dial_back import DIAL_S
from lowcomm_node.core.commands import SeekPath
from lowcomm_node.core.events import Event, PathSought, ReachabilityMeasured
from lowcomm_node.daemon.outreach import Outreach
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import DirectoryError
from lowcomm_node.settings.node import NetworkSettings
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.units import PeerId, Reachability
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from tests.daemon.virtual_time import run_virtually

ANN, BOB = PeerId("ann"), PeerId("bob")
SEEN_AT = "198.51.100.7"


class World:
    """Directory, DHT session and sink in one; ``can_dial`` is what each member would find."""

    def __init__(self, **settings: Any) -> None:
        self.reachability = Reachability.PUBLIC
        self.grpc_address = "presumed:1"
        self.record = b""
        self.can_dial: dict[PeerId, bool] = {}
        self.direct: set[PeerId] = set()
        self.silent: set[PeerId] = set()
        self.takes_s = 0.0
        """What a member needs to try."""
        self.visible = ["/ip4/10.0.0.1/tcp/1/p2p/me"]
        self.asked: list[float] = []
        self.renewed: list[float] = []
        self.told: list[Event] = []
        self.changes = 0
        self.outreach = Outreach(
            settings=NetworkSettings(**settings),
            dht=self,  # type: ignore[arg-type]
            channels=None,  # type: ignore[arg-type]
            link=None,  # type: ignore[arg-type]
            states=None,  # type: ignore[arg-type]
            sink=self,  # type: ignore[arg-type]
            recorder=Recorder(Metrics()),
            request=records_pb2.DialBackRequest(port=7),
            public_members=lambda: list(self.can_dial),
            seek=self.seek,
        )

    @property
    def session(self) -> "World":
        return self

    def play(self, reachability: Reachability) -> None:
        self.reachability = reachability

    def renew(self) -> None:
        self.renewed.append(asyncio.get_running_loop().time())

    async def wait_up(self) -> None: ...

    async def dial_back(self, peer: PeerId, request: object) -> records_pb2.DialBackResponse:
        self.asked.append(asyncio.get_running_loop().time())
        if peer in self.silent:
            await asyncio.sleep(15.0)
            raise DirectoryError("no answer in 15 s")
        await asyncio.sleep(self.takes_s)
        return records_pb2.DialBackResponse(is_reachable=self.can_dial[peer], host=SEEN_AT)

    async def visible_addresses(self) -> list[str]:
        return self.visible

    async def seek(self, peer: PeerId) -> bool:
        if not self.visible:
            raise DirectoryError("p2pd has died; it is being started anew")
        return peer in self.direct

    def handle(self, event: Event) -> None:
        self.told.append(event)

    def changed(self) -> None:
        self.changes += 1


def live(world: World, *scenes: tuple[float, Callable[[], object]], until_s: float) -> None:
    """Begin, watch, and let each scene happen at its time."""

    async def life() -> None:
        loop = asyncio.get_running_loop()
        await world.outreach.begin()
        watching = asyncio.create_task(world.outreach.watch(world.changed))
        for at_s, scene in scenes:
            loop.call_at(at_s, scene)
        await asyncio.sleep(until_s - loop.time())
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await world.outreach.stop()

    run_virtually(life)


def reachabilities(world: World) -> list[Reachability]:
    return [event.reachability for event in world.told if isinstance(event, ReachabilityMeasured)]


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "127.0.0.1:7"),
        ({"host": "0.0.0.0"}, f"{SEEN_AT}:7"),
        ({"host": "0.0.0.0", "announce_host": "me.example"}, "me.example:7"),
        ({"host": "::"}, f"{SEEN_AT}:7"),
    ],
)
def test_a_port_that_others_reach_is_announced(settings: dict[str, str], address: str) -> None:
    """Where they see us, unless the settings say it better; before anything is announced, and seldom asked again."""
    world = World(**settings)
    world.can_dial = {ANN: True, BOB: False}
    live(world, until_s=1000.0)

    assert world.grpc_address == address
    assert reachabilities(world) == [Reachability.PUBLIC]
    assert world.changes == 0
    assert world.asked[0] == 0.0
    assert len(world.asked) == 4  # both, at the start and a quarter of an hour later


def test_a_router_that_drops_what_it_does_not_know_is_noticed_at_the_start() -> None:
    """Who tries gives up before we do; and one member that does not answer keeps no other's answer from counting."""
    world = World()
    world.can_dial = dict.fromkeys((ANN, BOB), False)
    world.silent, world.takes_s = {BOB}, DIAL_S
    live(world, until_s=14.0)

    assert reachabilities(world) == [Reachability.OUTBOUND_ONLY]
    assert world.changes == 0
    assert world.grpc_address == ""


def test_a_port_that_nobody_reaches_is_not_announced_and_comes_back() -> None:
    """Asked again soon at first: whoever tried may have been overloaded. The record changes when the answer does."""
    world = World()
    world.can_dial = {ANN: False}
    live(world, (20.0, lambda: world.can_dial.update({ANN: True})), until_s=60.0)

    assert world.asked == [0.0, 15.0, 30.0]
    assert reachabilities(world) == [Reachability.OUTBOUND_ONLY, Reachability.PUBLIC]
    assert world.changes == 1
    assert world.grpc_address == "127.0.0.1:7"


def test_with_nobody_to_ask_a_node_is_taken_for_public() -> None:
    """The first node of a run; it asks the first that comes."""
    world = World()
    live(world, (20.0, lambda: world.can_dial.update({BOB: False})), until_s=31.0)

    assert reachabilities(world) == [Reachability.PUBLIC, Reachability.OUTBOUND_ONLY]
    assert world.grpc_address == ""
    assert world.asked == [30.0]


def test_a_node_that_is_not_to_be_dialled_asks_nobody_and_sees_what_leads_to_it() -> None:
    """A place at a relay, and later a hole that was punched."""
    world = World(inbound="off")
    world.reachability = Reachability.OUTBOUND_ONLY
    world.can_dial, world.direct = {ANN: True}, {BOB}
    world.visible.append("/ip4/203.0.113.1/tcp/1/p2p/relay/p2p-circuit/p2p/me")
    live(world, (150.0, lambda: world.outreach.carry_out(SeekPath(peer=BOB))), until_s=200.0)

    assert world.asked == []
    assert reachabilities(world) == [Reachability.RELAYED, Reachability.HOLEPUNCHED]
    assert PathSought(peer=BOB, is_direct=True) in world.told


def test_a_node_that_has_lost_its_relays_looks_for_others_once() -> None:
    """p2pd would wait for an hour; while there is none it is left in peace, and it is done again when those are lost too."""
    world = World(inbound="off")
    world.reachability = Reachability.OUTBOUND_ONLY
    place = "/ip4/203.0.113.1/tcp/1/p2p/relay/p2p-circuit/p2p/me"
    scenes = [(100.0, world.visible.append), (300.0, world.visible.remove), (900.0, world.visible.append)]
    live(world, *((at_s, partial(scene, place)) for at_s, scene in scenes), until_s=1000.0)
    assert len(world.renewed) == 1
    assert 300.0 < world.renewed[0] <= 420.0

    assert reachabilities(world)[-2:] == [Reachability.OUTBOUND_ONLY, Reachability.RELAYED]


def test_who_knows_better_is_not_asked() -> None:
    """network.inbound = on: nothing is measured, and what stands there is announced."""
    world = World(inbound="on")
    world.can_dial = {ANN: False}
    live(world, until_s=2000.0)

    assert world.asked == []
    assert reachabilities(world) == [Reachability.PUBLIC]
    assert world.grpc_address == "presumed:1"


def test_a_path_that_cannot_be_looked_for_is_none() -> None:
    """p2pd is being started anew: the core hears that there is no path, and asks again later."""
    world = World(inbound="on")
    world.visible = []
    live(world, (1.0, lambda: world.outreach.carry_out(SeekPath(peer=ANN))), until_s=2.0)

    assert world.told[-1] == PathSought(peer=ANN, is_direct=False)
