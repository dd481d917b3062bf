"""Four nodes with real p2pds, ports and cores, in one process; only their trainers are numbers. Two of them accept no connection."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
import uvloop

from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.adapters.line import Line
from lowcomm_node.core.commands import GiveUp, Heal
from lowcomm_node.core.events import DrainRequested, Ticked, TrainerReady
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.core.node import NodeCore
from lowcomm_node.daemon.clock import SystemClock
from lowcomm_node.daemon.network import Network
from lowcomm_node.daemon.observer import Observer
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.rules import rules_of_a_life
from lowcomm_node.daemon.runtime import Runtime
from lowcomm_node.daemon.status import peers_status
from lowcomm_node.ports import ChildKind
from lowcomm_node.settings.canonical import canonical_bytes, run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NetworkSettings, NodeSettings
from lowcomm_node.telemetry.flight.recorder import FlightRecorder
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import Ready, ToTrainer
from lowcomm_node.units import LinkKind, Reachability, Stream
from tests.core.exact_trainer import ExactTrainer

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning"),  # hivemind finds p2pd that way
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # hivemind leaves its pipes to p2pd to the collector
]

MANIFEST = Manifest()
STEP_S = 0.02
EVERY_WAY = set(LinkKind)


class Children:
    """Nobody looks after what is left: the test ends its nodes."""

    def started(self, kind: ChildKind, pid: int, sockets: Path | None = None) -> None: ...

    def ended(self, *pids: int) -> None: ...


class LiveNode:
    """A node without control socket, files and trainer process."""

    def __init__(self, folder: Path, index: int, peers: tuple[str, ...], inbound: str) -> None:
        self.settings = NodeSettings(network=NetworkSettings(inbound=inbound, record_ttl_s=20.0))
        self.trainer = ExactTrainer(Fraction(100 * index))
        self.recorder = Recorder(Metrics())
        self.identity = load_or_create(folder / "identity.key")
        self.peers = peers
        self.network = Network(
            settings=self.settings.network,
            patience=self.settings.meeting,
            line=Line(),
            identity=self.identity,
            peers=peers,
            invite="",
            state_dir=folder,
            recorder=self.recorder,
            children=Children(),
        )
        rules = rules_of_a_life(self.identity.peer_id, run_id(MANIFEST), MANIFEST, self.settings)
        self.core = NodeCore(replace(rules, periods={Stream.PARAMS: 4}))
        self.runtime = Runtime(
            core=FlightRecorder(self.core, max_entries=1000),
            manifest=MANIFEST,
            verify=self.network.verify,
            clock=SystemClock(),
            recorder=self.recorder,
            send_to_trainer=self._serve,
            freeze=lambda _command: None,
            on_cure=self._cure,
            on_offence=self.network.offended,
        )
        self._index = index
        self.is_stepping = True
        self._chance = Random(index)
        self._life: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.network.start()
        if self.peers:
            await self.network.hello()
        await self.network.enter(run_id(MANIFEST), canonical_bytes(MANIFEST), MANIFEST)
        ready = Ready(
            parameters=1000, shapes=((1,),), snapshot_bytes_max=1, train_tokens=1, validation_tokens=1, device="cpu"
        )
        await self.network.open(
            ready, self.runtime, is_meeting=lambda: False, snapshots=self._nothing, fingerprints=self._fingerprint
        )
        self.runtime.connect(self.network.link, self.network.outreach.carry_out)
        self.runtime.handle(TrainerReady())
        life = (self._announce(), self._look(), self._tick(), self._step(), self.network.outreach.watch(lambda: None))
        self._life = [asyncio.create_task(work) for work in life]

    async def stop(self) -> None:
        for task in self._life:
            task.cancel()
        await asyncio.gather(*self._life, return_exceptions=True)
        await self.network.stop()

    def links(self) -> Counter[LinkKind]:
        return self.recorder.tally.links

    async def _announce(self) -> None:
        while True:
            await self.network.announce(progress_steps=0.0, has_state=True)
            await asyncio.sleep(5.0)

    async def _look(self) -> None:
        while True:
            self.runtime.members_seen(await self.network.members())
            await asyncio.sleep(0.5)

    async def _tick(self) -> None:
        while True:
            self.runtime.carry_record(self.network.record)
            self.runtime.handle(Ticked())
            await asyncio.sleep(0.1)

    async def _step(self) -> None:
        while True:
            if self.is_stepping:
                self.runtime.handle(self.trainer.step(self._chance))
            await asyncio.sleep(STEP_S)

    def _serve(self, command: ToTrainer) -> None:
        asyncio.get_running_loop().call_soon(self._carry_out, command)

    def _carry_out(self, command: ToTrainer) -> None:
        event = self.trainer.carry_out(command)  # type: ignore[arg-type]
        if event is not None:
            self.runtime.handle(event)

    def _cure(self, command: Heal | GiveUp) -> None:
        raise AssertionError(command)

    async def _nothing(self) -> tuple[Path, float]:
        raise NotImplementedError

    async def _fingerprint(self) -> Fingerprint:
        return Fingerprint(progress_steps=float(self._index), sketch=(), norms=())


@asynccontextmanager
async def swarm(folder: Path, *inbound: str) -> AsyncIterator[list[LiveNode]]:
    """Nodes that all know the first one."""
    nodes: list[LiveNode] = []
    try:
        for index, word in enumerate(inbound):
            node = LiveNode(folder / str(index), index, (nodes[0].network.join_address,) if nodes else (), word)
            nodes.append(node)
            await node.start()
        yield nodes
    finally:
        for node in nodes:
            await node.stop()


async def observed_by_a_stranger(folder: Path, nodes: list[LiveNode]) -> None:
    """An observer that wants the states of all finds a way to each, asks them, and is nobody's member."""
    members = {node.identity.peer_id for node in nodes}
    observer = Observer(
        settings=NetworkSettings(),
        line=Line(),
        peers=(nodes[0].network.join_address,),
        invite="",
        state_dir=folder / "none",
        scratch=folder,
        num_wanted=len(nodes),
    )
    try:
        await observer.start()
        welcome = await observer.hello()
        await observer.enter(welcome.run_id, welcome.manifest, MANIFEST)
        while {member.peer for member in await observer.donors()} != members:  # noqa: ASYNC110 - of four nodes
            await asyncio.sleep(0.2)
        for node in nodes:
            told = await observer.client.fingerprint(node.identity.peer_id, run_id(MANIFEST))
            assert told.progress_steps == float(nodes.index(node))
            assert {member.peer for member in await node.network.members()} == members - {node.identity.peer_id}
            assert {view.member.peer for view in node.core.partners.views()} <= members
    finally:
        await observer.stop()
    assert not (folder / "none").exists()


def test_everybody_meets_everybody_though_half_of_them_cannot_be_dialled(tmp_path: Path) -> None:
    """In every way there is; the sum of all values is untouched, so no meeting is half; and how it came about is shown."""

    async def scenario() -> None:
        async with swarm(tmp_path, "auto", "auto", "off", "off") as nodes:
            open_nodes, closed_nodes = nodes[:2], nodes[2:]
            while not (  # noqa: ASYNC110 - of four nodes
                all(set(node.links()) == EVERY_WAY for node in closed_nodes)
                and all({LinkKind.GRPC, LinkKind.GRPC_REVERSED} <= set(node.links()) for node in open_nodes)
            ):
                await asyncio.sleep(0.05)

            for node in open_nodes:
                assert node.network.reachability is Reachability.PUBLIC
                assert node.core.num_bells() == (0, 2)
            for node in closed_nodes:
                assert node.network.grpc_address == ""
                assert node.network.reachability is not Reachability.PUBLIC
                assert node.core.num_bells() == (2, 0)
                ways = {(peer.reachability == "public", peer.link) for peer in peers_status(node.core, 0.0).peers}
                assert ways == {(True, "grpc"), (False, "libp2p")}
            await observed_by_a_stranger(tmp_path / "stranger", nodes)

            # What is under way over libp2p breaks, and is brought to its end when there is a path again.
            os.kill(closed_nodes[0].network._dht.pid, signal.SIGKILL)
            for node in nodes:
                node.is_stepping = False
                node.runtime.handle(DrainRequested())
            while not all(node.core.is_settled() for node in nodes):  # noqa: ASYNC110 - of four nodes
                await asyncio.sleep(0.05)
            assert sum(node.trainer.value - node.trainer.drift for node in nodes) == 600
            assert sum(node.recorder.tally.half for node in nodes) == 0

    async def bounded() -> None:
        async with asyncio.timeout(90):
            await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())
