"""The life of a node: start, connect, sync and train, drain, stop — methods in that order.

Effects only; what to do in a meeting is decided in ``core``. Everything runs in one event loop. The trainer is
started before gRPC and threads exist.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lowcomm_node import PROTOCOL_VERSION
from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.core.commands import GiveUp, Heal
from lowcomm_node.core.events import DrainRequested, Ticked, TrainerLost, TrainerReady
from lowcomm_node.core.node import NodeCore, NodeRules
from lowcomm_node.core.schedule import Timing
from lowcomm_node.daemon.clock import SystemClock
from lowcomm_node.daemon.control import ControlServer
from lowcomm_node.daemon.http import Health, LocalHttp
from lowcomm_node.daemon.network import Network
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.runtime import Runtime
from lowcomm_node.daemon.status import base_status, meeting_status, peers_status, training_status
from lowcomm_node.daemon.training import Training
from lowcomm_node.errors import ConfigError, DivergedError
from lowcomm_node.settings.canonical import canonical_bytes, manifest_from_canonical, run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.streams import periods
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import FromTrainer, Report
from lowcomm_node.units import RunId
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import Peers, Status
from lowcomm_node.wire.limits import MAX_MANIFEST_BYTES

__all__ = ["JoinOptions", "Node"]

_TICK_S = 0.25
_DRAIN_GRACE_S = 10.0
_TRAINER_END_GRACE_S = 5.0
_FIRST_TOLD_S = 10.0
_TOLD_EVERY_S = 60.0
_QUICK_POLLS = 20
"""Looks into the directory once a second at first: in a young swarm members appear by the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions:
    """What ``lowcomm-node join`` was told."""

    manifest: Manifest | None
    peers: tuple[str, ...]
    run_id: str
    """Hexadecimal run id or its beginning; empty accepts whatever run the peers are in."""
    settings: NodeSettings
    state_dir: Path
    say: Callable[[str], None]
    """Lines for the person at the terminal."""


class Node:
    """One life of one node."""

    def __init__(self, options: JoinOptions, metrics: Metrics) -> None:
        self._options = options
        self._settings = options.settings
        self._log = get_logger("node")
        self._clock = SystemClock()
        self._started_at = self._beat = self._clock.monotonic()
        self._metrics = metrics
        self._recorder = Recorder(self._metrics)
        self._stop_requested = asyncio.Event()
        self._announce_now = asyncio.Event()
        self._announcing: asyncio.Task[None] | None = None
        self._num_signals = 0
        self._diverged: DivergedError | None = None
        self._state, self._detail = "starting", ""
        self._manifest = options.manifest
        self._run_id: RunId | None = None
        self._core: NodeCore | None = None
        self._runtime: Runtime | None = None
        self._identity = load_or_create(options.state_dir / "identity.key")
        self._training = Training(
            settings=self._settings,
            state_dir=options.state_dir,
            recorder=self._recorder,
            on_message=self._trainer_said,
            on_lost=self._trainer_lost,
            enter=self._enter,
        )
        self._network = Network(
            settings=self._settings.network,
            patience=self._settings.meeting,
            identity=self._identity,
            peers=options.peers,
            state_dir=options.state_dir,
            recorder=self._recorder,
        )
        self._control = ControlServer(
            options.state_dir, status=self.status, peers=self.peers, leave=self._stop_requested.set
        )
        self._http = LocalHttp(
            host=self._settings.metrics.host,
            port=self._settings.metrics.port,
            metrics=self._metrics.exposition,
            status=lambda: self._latest_status,
            health=self._health,
        )
        self._latest_status = self.status()

    async def run(self) -> None:
        """Live until asked to leave. Raises LowcommError when the node cannot go on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        life = asyncio.create_task(self._live(), name="life")
        leaving = asyncio.create_task(self._stop_requested.wait(), name="leaving")
        try:
            await asyncio.wait({life, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                await life
            elif self._training.has_state:
                await self._drain()
        except BaseException:
            self._enter("failed", "")
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
                await self._connect()
                training = self._training.live(
                    is_first=not self._options.peers,
                    find_donors=self._network.donors,
                    client=self._network.state_client,
                    on_training=self._training_began,
                )
                self._announcing = group.create_task(self._announce())
                for work in (training, self._look_around(), self._tell()):
                    group.create_task(work)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _start(self) -> None:
        """Take the state directory, open the local ports. The trainer process is already on its way."""
        self._training.attach()
        await self._control.start()
        self._http.start()
        self._log.info("http_listening", host=self._settings.metrics.host, port=self._http.port)

    async def _connect(self) -> None:
        """Find the run, build it in the trainer, open the port for peers."""
        self._enter("connecting", "starting the DHT")
        await self._network.start()
        canonical, manifest, run = await self._find_run()
        self._manifest, self._run_id = manifest, run
        if manifest.protocol_version != PROTOCOL_VERSION:
            raise ConfigError(
                f"the run speaks protocol {manifest.protocol_version}, this lowcomm-node speaks {PROTOCOL_VERSION}; "
                "install the version the run was started with"
            )
        self._enter("connecting", "building model and data")
        ready = await self._training.configure(manifest, run, self._identity.peer_id)
        self._core = NodeCore(self._rules(manifest, run))
        self._runtime = Runtime(
            core=self._core,
            manifest=manifest,
            verify=self._network.verify,
            clock=self._clock,
            recorder=self._recorder,
            send_to_trainer=self._training.send,
            on_cure=self._cure,
        )
        await self._network.open(run, canonical, ready, self._runtime, self._training.take_snapshot)
        self._runtime.connect(self._network.link)
        self._metrics.identify(
            peer_id=self._identity.peer_id,
            run_id=run,
            run_name=manifest.name,
            codec=manifest.meeting.codec,
            device=ready.device,
        )
        self._log.info("joined", run=run, name=manifest.name, parameters=ready.parameters)
        self._tell_periods(manifest)

    async def _find_run(self) -> tuple[bytes, Manifest, RunId]:
        """The canonical manifest and its parts: our own file's, or the run's that the peers are in."""
        options = self._options
        if options.manifest is not None:
            own_id = run_id(options.manifest)
            if not own_id.startswith(options.run_id):
                raise ConfigError(f"the manifest's run id is {own_id}, not {options.run_id} as --run says")
            if not options.peers:
                return canonical_bytes(options.manifest), options.manifest, own_id
        elif not options.peers:
            raise ConfigError("nothing to join: give --peers ADDRESS of a run, or --manifest FILE to start one")
        self._enter("connecting", "asking the given peers for their run")
        welcome = await self._network.hello()
        expected = run_id(options.manifest) if options.manifest is not None else options.run_id
        if not welcome.run_id.startswith(expected):
            raise ConfigError(
                f"the peer {welcome.member.peer} is in run {welcome.run_id[:12]}, not in {expected[:12]}; "
                "check the address, or leave --manifest and --run out to join that run"
            )
        return welcome.manifest, manifest_from_canonical(welcome.manifest, MAX_MANIFEST_BYTES), welcome.run_id

    async def _tick(self) -> None:
        """Deadlines, the loop's own heartbeat, and the status that others read."""
        while True:
            before = self._clock.monotonic()
            await asyncio.sleep(_TICK_S)
            self._beat = now = self._clock.monotonic()
            self._metrics.loop_lagged(now - before - _TICK_S)
            if self._runtime is not None and self._core is not None:
                self._runtime.handle(Ticked())
                reachable, suspect = self._core.partners.counts(now)
                self._metrics.peers_counted(reachable=reachable, suspect=suspect)
            self._latest_status = self.status()
            if self._diverged is not None:
                raise self._diverged

    async def _announce(self) -> None:
        """Keep our record in the directory alive; renew it at once when we have become a donor."""
        while True:
            self._announce_now.clear()
            report = self._training.report
            record = await self._network.announce(
                progress_steps=report.progress_steps if report is not None else 0.0,
                has_state=self._training.has_state and self._core is not None and self._core.has_sound_state,
            )
            if self._core is not None:
                self._core.carry_record(record)
            try:
                async with asyncio.timeout(self._settings.network.record_ttl_s / 3):
                    await self._announce_now.wait()
            except TimeoutError:
                continue

    async def _look_around(self) -> None:
        """Refresh the sample of live members."""
        num_polls = 0
        while True:
            members = await self._network.members()
            if self._runtime is not None:
                self._runtime.members_seen(members)
            num_polls += 1
            await asyncio.sleep(1.0 if num_polls < _QUICK_POLLS else self._settings.network.poll_every_s)

    async def _tell(self) -> None:
        """A line now and then for whoever watches the log."""
        wait_s = _FIRST_TOLD_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = _TOLD_EVERY_S
            if self._training.report is not None and self._state == "training":
                self._recorder.progress(self._training.report)

    async def _drain(self) -> None:
        """Finish the meetings under way, say good-bye, save."""
        self._enter("draining", "finishing the meeting under way")
        if self._runtime is not None and self._core is not None:
            self._runtime.handle(DrainRequested())
            deadline = self._clock.monotonic() + _DRAIN_GRACE_S
            # The core has state, no events to wait for.
            while not self._core.is_settled() and self._clock.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        if self._announcing is not None:
            self._announcing.cancel()  # or the good-bye might not be our last word
            await asyncio.wait({self._announcing})
        await self._network.withdraw()
        self._enter("draining", "saving the state")
        await self._training.save()

    async def _stop(self) -> None:
        """Let go of everything, in the order that leaves nothing behind; each part is bounded in time."""
        await self._network.stop()
        await self._training.end(_TRAINER_END_GRACE_S if self._state == "draining" else 0.0)
        self._http.stop()
        if self._state != "failed":
            self._enter("stopped", "")
        await self._control.stop()

    def status(self) -> Status:
        """What the node is doing, for control socket and HTTP."""
        now = self._clock.monotonic()
        status = base_status(
            peer_id=self._identity.peer_id, state=self._state, detail=self._detail, uptime_s=now - self._started_at
        )
        status.run_id = self._run_id or ""
        status.run_name = self._manifest.name if self._manifest is not None else ""
        status.join_address = self._network.join_address
        status.grpc_address = self._network.grpc_address
        training = self._training
        status.training.CopyFrom(
            training_status(
                training.report, training.ready, self._manifest, training.started_loss, self._recorder.restarts
            )
        )
        if self._core is not None:
            status.meetings.CopyFrom(meeting_status(self._recorder.tally, self._core.phase(), now))
            status.peers_known = len(self._core.partners.views())
        return status

    def peers(self) -> Peers:
        """The members this node knows."""
        views = self._core.partners.views() if self._core is not None else ()
        return peers_status(views, self._clock.monotonic())

    def _health(self) -> Health:
        return Health(
            loop_beat_s=self._beat,
            trainer_beat_s=self._training.beat if self._state == "training" else None,
            is_joined=self._core is not None,
            has_state=self._training.has_state,
            is_leaving=self._state in ("draining", "stopped"),
        )

    def _trainer_said(self, message: FromTrainer) -> None:
        if isinstance(message, Report) and self._state in ("training", "finished"):
            if message.is_finished:
                self._enter("finished", "all steps are done; serving meetings")
            else:
                self._enter("training", "")
        if self._runtime is not None:
            self._runtime.trainer_said(message)

    def _trainer_lost(self) -> None:
        self._announce_now.set()  # others should not ask us for a meeting or for our state now
        if self._runtime is not None:
            self._runtime.handle(TrainerLost())

    def _cure(self, command: Heal | GiveUp) -> None:
        """Our state is unfit: the trainer starts again with another one, and is ended when that has not helped."""
        if isinstance(command, GiveUp):
            self._diverged = DivergedError(
                f"the training state became unfit again ({command.reason}) after {command.num_heals} heals in a row; "
                "check this machine's memory, its GPU and its data, then join again"
            )
        self._training.kill()

    def _training_began(self) -> None:
        if self._runtime is not None:
            self._runtime.handle(TrainerReady())
        self._announce_now.set()
        run = (self._run_id or "")[:12]
        self._options.say(
            f"training run {run}; others join it with\n"
            f"  lowcomm-node join --peers {self._network.join_address} --run {run}"
        )

    def _rules(self, manifest: Manifest, run: RunId) -> NodeRules:
        return NodeRules(
            own=self._identity.peer_id,
            run_id=run,
            protocol_version=PROTOCOL_VERSION,
            periods={period.stream: period.every_steps for period in periods(manifest)},
            deadline_s=self._settings.meeting.deadline_s,
            verdict_keep_s=self._settings.meeting.verdict_keep_s,
            max_peers=self._settings.network.max_peers,
            seed=os.urandom(32),
            timing=Timing(manifest.meeting.timing),
            clip_ratio=manifest.meeting.clip_ratio,
        )

    def _tell_periods(self, manifest: Manifest) -> None:
        """What this node exchanges how often, and why: much of it follows from the manifest without standing there."""
        for period in periods(manifest):
            often = f"every {period.every_steps} own steps" if period.every_steps else "never"
            self._options.say(f"exchanging {period.stream} {often}: {period.reason}")
            self._log.info(
                "exchange_period", stream=period.stream, every_steps=period.every_steps, reason=period.reason
            )

    def _enter(self, state: str, detail: str) -> None:
        has_changed = state != self._state
        self._state, self._detail = state, detail
        if has_changed:
            self._recorder.state_changed(state, detail)
            self._latest_status = self.status()

    def _signalled(self, number: int) -> None:
        """First signal: leave in order. Second: at once; p2pd and trainer end with this process."""
        self._num_signals += 1
        if self._num_signals > 1:
            self._training.kill()
            os._exit(128 + number)
        self._log.info("leaving", signal=signal.Signals(number).name)
        self._stop_requested.set()
