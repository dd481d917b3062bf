"""The life of a node: start, connect, sync and train, drain, stop — methods in that order.

Effects only; what to do in a meeting is decided in ``core``. Everything runs in one event loop. The trainer is
started before gRPC and threads exist.
"""

import asyncio
from collections.abc import Mapping, Sequence

from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.adapters.owners_machine import OwnersMachine
from lowcomm_node.core.commands import GiveUp, Heal
from lowcomm_node.core.events import DrainRequested, Event, FrozenUsed, Member, PauseChanged, Ticked, TrainerLost
from lowcomm_node.core.node import NodeCore
from lowcomm_node.core.places import Fullness
from lowcomm_node.daemon.black_box import BlackBox
from lowcomm_node.daemon.board import Board
from lowcomm_node.daemon.children import Children
from lowcomm_node.daemon.clock import SystemClock
from lowcomm_node.daemon.control import ControlServer
from lowcomm_node.daemon.freezing import Freezing
from lowcomm_node.daemon.http import LocalHttp, host_of
from lowcomm_node.daemon.join_options import JoinOptions
from lowcomm_node.daemon.joining import how_to_join
from lowcomm_node.daemon.line_watch import LineWatch
from lowcomm_node.daemon.network import Network
from lowcomm_node.daemon.notify import ServiceNotifier
from lowcomm_node.daemon.owner_watch import OwnerWatch
from lowcomm_node.daemon.pausing import Pausing
from lowcomm_node.daemon.presence import Presence, Standing, standing_of
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.rules import rules_of_a_life
from lowcomm_node.daemon.run_finder import FoundRun, RunFinder
from lowcomm_node.daemon.runtime import Runtime
from lowcomm_node.daemon.signals import obey_signals
from lowcomm_node.daemon.status import base_status, core_status, network_status, service_line, training_status
from lowcomm_node.daemon.telling import tell
from lowcomm_node.daemon.training import Training
from lowcomm_node.daemon.views import Health, Views
from lowcomm_node.errors import DivergedError
from lowcomm_node.settings.streams import periods
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import FromTrainer, Report
from lowcomm_node.units import RunId, Stream
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import Status

__all__ = ["Node"]

_TICK_S = 0.25
_DRAIN_GRACE_S = 10.0
_TRAINER_END_GRACE_S = 5.0
_LONGEST_LEAVE_S = 120.0
"""Meeting, good-bye, saving and stopping each have a limit; this is more than all of them."""


class Node:
    """One life of one node."""

    def __init__(
        self,
        options: JoinOptions,
        metrics: Metrics,
        service: ServiceNotifier | None = None,
        recent_log: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self._options = options
        self._service = service or ServiceNotifier()
        self._settings = options.settings
        self._log = get_logger("node")
        self._clock = SystemClock()
        self._started_at = self._beat = self._clock.monotonic()
        self._metrics = metrics
        self._recorder = Recorder(self._metrics)
        self._metrics.watch(self._fullness)
        self._stop_requested = asyncio.Event()
        self._diverged: DivergedError | None = None
        self._state, self._detail = "starting", ""
        self._manifest = options.manifest
        self._found: FoundRun | None = None
        self._run_id: RunId | None = None
        self._core: NodeCore | None = None
        self._runtime: Runtime | None = None
        self._identity = load_or_create(options.state_dir / "identity.key")
        self._children = Children(options.state_dir)
        self._training = Training(
            settings=self._settings,
            state_dir=options.state_dir,
            recorder=self._recorder,
            children=self._children,
            on_message=self._trainer_said,
            on_lost=lambda: self._tell(TrainerLost()),
            enter=self._enter,
            is_sound=lambda: self._core is None or self._core.has_sound_state,
        )
        owner = self._settings.owner
        machine = OwnersMachine(owner, lambda: self._training.pids)
        self._owner_watch = OwnerWatch(owner, options.state_dir, look=machine.look, training=self._training)
        self._pausing = Pausing(
            self._owner_watch,
            training=self._training,
            due=self._due,
            tell=self._tell,
            settle=self._settle,
            enter=self._enter,
            count=metrics.paused,
        )
        self._line_watch = LineWatch(self._settings.bandwidth, options.state_dir, self._recorder)
        self._network = Network(
            settings=self._settings.network,
            patience=self._settings.meeting,
            line=self._line_watch.line,
            identity=self._identity,
            peers=options.peers,
            invite=options.invite,
            state_dir=options.state_dir,
            recorder=self._recorder,
            children=self._children,
        )
        self._freezing = Freezing(
            self._training, lambda: self._network.states, self._recorder, tell=self._tell, line=self._line_watch
        )
        self._presence = Presence(self._network, self._settings.network, self._standing)
        self._finder = RunFinder(
            manifest=options.manifest,
            peers=options.peers,
            wanted=options.run_id,
            network=self._network,
            state_dir=options.state_dir,
        )
        self._black_box = BlackBox(
            settings=self._settings, state_dir=options.state_dir, status=self.status, recent_log=recent_log
        )
        self._board = Board(self._settings.metrics, self._network.vitals, met=self._recorder.tally.partners)
        self._control = ControlServer(
            options.state_dir,
            status=self.status,
            peers=lambda: self._board.peers,
            history=self._board.history.message,
            leave=self._stop_requested.set,
            pause=self._owner_watch.pause,
            resume=self._owner_watch.resume,
            dump=self._black_box.dump,
        )
        self._http = LocalHttp(
            host=self._settings.metrics.host,
            port=self._settings.metrics.port,
            names=(*self._settings.metrics.allowed_hosts, host_of(self._settings.metrics.publish)),
            answer=Views(metrics=self._metrics.exposition, board=self._board, health=self._health).answer,
        )
        self._show()

    async def run(self) -> None:
        """Live until asked to leave. Raises LowcommError when the node cannot go on."""
        asyncio.get_running_loop().set_exception_handler(self._black_box.unhandled)
        obey_signals(self._stop_requested.set, self._training.kill)
        life = asyncio.create_task(self._live(), name="life")
        leaving = asyncio.create_task(self._stop_requested.wait(), name="leaving")
        try:
            await asyncio.wait({life, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                await life
            await self._pausing.at_rest()
            if self._training.has_state:
                await self._drain()
        except BaseException as error:
            self._enter("failed", "")
            self._black_box.crashed(error)
            raise
        finally:
            for task in (life, leaving):
                task.cancel()
            await asyncio.gather(life, leaving, return_exceptions=True)
            await self._stop()

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tick())
                await self._start()
                group.create_task(self._owner_watch.run())
                await self._pausing.before_start()
                await self._connect()
                self._presence.keep_announced(group)
                for work in (
                    self._pausing.live(self._train),
                    self._training.keep_checkpoints(self._due),
                    tell(self._training, self._recorder),
                    self._presence.look_around(self._members_seen),
                    self._line_watch.run(self._tell),
                    self._network.outreach.watch(self._presence.renew),
                    self._network.pulse.run(),
                ):
                    group.create_task(work)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _train(self) -> None:
        await self._training.live(
            is_first=not self._options.peers,
            knows_nobody=self._finder.knows_nobody,
            find_donors=self._donors,
            client=self._network.states.client,
            on_training=self._training_began,
        )

    async def _donors(self) -> tuple[Member, ...]:
        self._line_watch.check_open("the state of the run is fetched")
        return await self._network.donors()

    async def _start(self) -> None:
        """Take the state directory, clean it up, open the local ports. The trainer process is already on its way."""
        await self._control.start()
        self._line_watch.open_ledger()
        self._recorder.leftovers_removed(await asyncio.to_thread(self._children.end_leftovers))
        self._training.attach()
        await self._owner_watch.open()
        self._http.start()
        self._log.info("http_listening", host=self._settings.metrics.host, port=self._http.port)

    async def _connect(self) -> None:
        """Find the run, build it in the trainer, open the port for peers."""
        self._enter("connecting", "starting the DHT")
        self._found = found = await self._finder.find(
            self._training.has_checkpoint, lambda detail: self._enter("connecting", detail)
        )
        manifest, run = found.manifest, found.run_id
        self._manifest, self._run_id = manifest, run
        self._enter("connecting", "building model and data")
        ready = await self._training.configure(manifest, run, self._identity.peer_id)
        core = self._core = NodeCore(rules_of_a_life(self._identity.peer_id, run, manifest, self._settings))
        self._runtime = Runtime(
            core=self._black_box.record(self._core),
            manifest=manifest,
            verify=self._network.verify,
            clock=self._clock,
            recorder=self._recorder,
            send_to_trainer=self._training.send,
            freeze=self._freezing.carry_out,
            on_cure=self._cure,
            on_offence=self._network.offended,
        )
        await self._network.open(
            ready,
            self._runtime,
            is_meeting=lambda: bool(core.phase()),
            snapshots=self._training.take_snapshot,
            fingerprints=self._training.take_fingerprint,
        )
        self._runtime.connect(self._network.link, self._network.outreach.carry_out)
        self._metrics.identify(self._identity.peer_id, run, manifest, ready.device)
        self._log.info("joined", run=run, name=manifest.name, parameters=ready.parameters)
        self._service.ready()
        self._recorder.periods_chosen(periods(manifest))

    async def _tick(self) -> None:
        """Deadlines, the loop's own heartbeat, and the status that others read."""
        while True:
            before = self._clock.monotonic()
            await asyncio.sleep(_TICK_S)
            self._beat = now = self._clock.monotonic()
            self._metrics.loop_lagged(now - before - _TICK_S)
            if self._runtime is not None and self._core is not None:
                # By the tick, not when the directory has taken it: partners believe a record, however slow the DHT is.
                self._runtime.carry_record(self._network.record)
                self._runtime.handle(Ticked())
                self._recorder.peers_counted(self._core, *self._network.num_peers(), now)
                self._metrics.flight_recorded(self._black_box.size()[1])
            self._show()
            if self._diverged is not None:
                raise self._diverged
            is_well = not self._health().reasons_not_live(now)
            self._service.beat(now, service_line(self._board.status), state=self._state, is_well=is_well)

    def _standing(self) -> Standing:
        has_state = self._training.has_state and not self._pausing.is_wanted
        return standing_of(self._training.report, self._core, has_state=has_state)

    async def _members_seen(self, members: tuple[Member, ...]) -> None:
        if self._runtime is not None:
            self._runtime.members_seen(members)
        if self._found is not None:
            await self._finder.remember(self._found)

    async def _drain(self) -> None:
        """Finish the meetings under way, say good-bye, save."""
        self._service.stopping(_LONGEST_LEAVE_S)
        self._enter("draining", "finishing the meeting under way")
        self._tell(DrainRequested())
        await self._settle()
        await self._presence.withdraw()
        self._enter("draining", "saving the state")
        await self._training.save(self._due())

    async def _settle(self) -> None:
        """Wait for the meetings under way, for some seconds at most."""
        deadline = self._clock.monotonic() + _DRAIN_GRACE_S
        # The core has state, no events to wait for.
        while self._core is not None and not self._core.is_settled() and self._clock.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    async def _stop(self) -> None:
        """Let go of everything, in the order that leaves nothing behind; each part is bounded in time."""
        self._service.stopping(_LONGEST_LEAVE_S)
        await self._freezing.stop()
        await self._network.stop()
        self._line_watch.save()
        await self._training.end(_TRAINER_END_GRACE_S if self._state == "draining" else 0.0)
        self._http.stop()
        if self._state != "failed":
            self._enter("stopped", "")
        await self._control.stop()
        self._service.close()

    def status(self) -> Status:
        """What the node is doing, for control socket and HTTP."""
        now = self._clock.monotonic()
        status = base_status(
            peer_id=self._identity.peer_id, state=self._state, detail=self._detail, uptime_s=now - self._started_at
        )
        status.run_id = self._run_id or ""
        status.run_name = self._manifest.name if self._manifest is not None else ""
        network_status(status, self._network)
        t = self._training
        told = training_status(t.report, t.ready, self._manifest, t.started_loss, self._recorder.restarts)
        status.training.CopyFrom(told)
        if self._core is not None:
            core_status(status, self._core, self._recorder.tally, now)
        status.line.CopyFrom(self._line_watch.status())
        status.pause.CopyFrom(self._owner_watch.status())
        status.http_address = self._http.address
        status.swarm.CopyFrom(self._board.status.swarm)
        return status

    def _fullness(self) -> Mapping[str, Fullness]:
        """Of everything that is bounded, by the words of ``telemetry.catalogue``; asked from threads."""
        core = self._core.fullness() if self._core is not None else {}
        own = {"http": self._http.fullness, "history": self._board.history.fullness}
        flight = {"flight_events": self._black_box.fullness}
        return {**self._network.fullness(), **self._recorder.fullness(), **core, **own, **flight}

    def _health(self) -> Health:
        return Health(
            loop_beat_s=self._beat,
            trainer_beat_s=self._training.beat if self._state == "training" else None,
            is_joined=self._core is not None,
            has_state=self._training.has_state,
            paused_for=self._owner_watch.sentence() if self._state in ("pausing", "paused") else "",
            is_leaving=self._state in ("draining", "stopped"),
        )

    def _due(self) -> Mapping[Stream, int]:
        return self._core.due() if self._core is not None else {}

    def _trainer_said(self, message: FromTrainer) -> None:
        if isinstance(message, Report) and self._state in ("training", "finished"):
            if message.is_finished:
                self._enter("finished", "all steps are done; serving meetings")
            else:
                self._enter("training", "")
        if self._runtime is not None:
            self._runtime.trainer_said(message)

    def _tell(self, event: Event) -> None:
        """Let the core know, once there is one."""
        if self._runtime is not None:
            self._runtime.handle(event)
        if isinstance(event, PauseChanged | TrainerLost | FrozenUsed):
            self._presence.renew()  # others should not ask us for a meeting or for our state now, or for one of this role

    def _cure(self, command: Heal | GiveUp) -> None:
        """Our state is unfit: the trainer starts again with another one, and is ended when that has not helped."""
        if isinstance(command, GiveUp):
            self._diverged = DivergedError(
                f"the training state became unfit again ({command.reason}) after {command.num_heals} heals in a row; "
                "check this machine's memory, its GPU and its data, then join again"
            )
        self._training.heal(command.reason)

    def _training_began(self) -> None:
        if self._runtime is not None:
            self._runtime.handle(self._training.began_with())
        self._presence.renew()
        run = (self._run_id or "")[:12]
        self._options.say(f"training run {run}; {how_to_join(self.status(), f' --run {run}')}")

    def _enter(self, state: str, detail: str) -> None:
        has_changed = state != self._state
        self._state, self._detail = state, detail
        if state == "paused":
            self._service.ready()  # a pause from the start on is no start that takes long
        if has_changed:
            self._recorder.state_changed(state, detail)
            self._show()

    def _show(self) -> None:
        self._board.show(self.status(), self._core, self._clock.monotonic())
        self._metrics.spread_estimated(self._board.status.swarm.spread)
