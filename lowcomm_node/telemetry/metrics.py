"""The node's metrics: narrow methods in, Prometheus text out.

Updates come from the daemon's event loop (log counts from any thread), ``exposition`` is called from the
HTTP thread; the client library's locks make that safe. Nothing here raises on an unknown word from a peer:
it is counted as ``other``.
"""

import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from lowcomm_node import __version__
from lowcomm_node.core.churn import PeerEvent
from lowcomm_node.core.commands import HealReason, ReportMeeting, Role
from lowcomm_node.core.owner import PauseReason
from lowcomm_node.core.places import Fullness
from lowcomm_node.core.supervision import Cause
from lowcomm_node.ports import GpuReading
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.telemetry.build import installed, revision
from lowcomm_node.telemetry.catalogue.words import PLACES
from lowcomm_node.telemetry.instruments import Instruments
from lowcomm_node.telemetry.layers import kept_by_layers
from lowcomm_node.telemetry.metric import UNMEASURED
from lowcomm_node.telemetry.reports import AbReport, TrainingReport
from lowcomm_node.units import Codec, PeerId, Reachability, RunId, Stream

__all__ = ["Metrics"]

_FP32_BYTES = 4


class Metrics:
    """All metrics of one node, on a registry of its own."""

    def __init__(
        self,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        gpus: Callable[[], Sequence[GpuReading]] = tuple,
    ) -> None:
        """``clock``: monotonic seconds. ``gpus`` is asked at each scrape, in the thread that scrapes."""
        # Otherwise each counter and histogram brings a second series that says when it was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._wall_clock = wall_clock
        self._clock = clock
        self._gpus = gpus
        self._one_reading = threading.Lock()
        self._counted: dict[tuple[str, ...], float] = {}
        self._checkpoint_began_at: float | None = None
        self._registry = CollectorRegistry()
        self._instruments = Instruments(self._registry)
        self._watched: tuple[Callable[[], Mapping[str, Fullness]], ...] = ()
        self._seen: dict[tuple[str, ...], float] = {}
        self._stream_sizes: Mapping[Stream, int] = {}
        self._trainer_pid: int | None = None
        ProcessCollector(registry=self._registry)
        ProcessCollector(namespace="lowcomm_trainer", pid=lambda: self._trainer_pid or "none", registry=self._registry)
        self._show_build(cuda="unknown")

    def exposition(self) -> bytes:
        """Everything, in the Prometheus text format."""
        with self._one_reading:  # two scrapes at a time would count the same joules twice
            for reading in self._gpus():
                self._gpu_read(reading)
            for fullness in self._watched:
                self._see(fullness())
        return generate_latest(self._registry)

    def watch(self, fullness: Callable[[], Mapping[str, Fullness]]) -> None:
        """Show how full these things are, by the words of the catalogue; asked at each scrape, in the thread that scrapes."""
        self._watched = (*self._watched, fullness)

    def identify(self, peer_id: PeerId, run: RunId, manifest: Manifest, device: str) -> None:
        """Say once who this node is, and what it takes part in."""
        self._instruments.gauge("run_total_steps").set(manifest.training.total_steps)
        codec = manifest.meeting.codec
        self._instruments.set_info(
            "node_info", peer_id=peer_id, run=run, run_name=manifest.name, codec=codec, device=device
        )

    def state_changed(self, state: str) -> None:
        """The node has entered another state of its life."""
        self._instruments.set_exclusive("node_state", state)

    def trainer_started(self, pid: int, stream_sizes: Mapping[Stream, int], cuda: str) -> None:
        """A trainer process is ready; its cumulative numbers count from zero.

        ``stream_sizes`` are numbers of values, ``cuda`` is what its torch is built for.
        """
        self._show_build(cuda)
        self._trainer_pid = pid
        self._stream_sizes = stream_sizes
        for stream in Stream:
            self._instruments.gauge("stream_values", stream).set(stream_sizes.get(stream, 0))
        self._seen.clear()

    def trainer_resumed(self, steps: int, tokens: int) -> None:
        """The trainer has loaded a state file: what its counters already hold was not done in this process's life."""
        self._seen["train_steps_total",] = steps
        self._seen["train_tokens_total",] = tokens

    def trainer_restarted(self, cause: Cause) -> None:
        """The trainer had died and is being started again."""
        self._instruments.counter("trainer_restarts_total", cause).inc()
        self._trainer_pid = None

    def micro_batches_set(self, micro_batches: int) -> None:
        """A batch is taken in this many parts."""
        self._instruments.gauge("train_micro_batches").set(micro_batches)

    def leftovers_removed(self, *, processes: int, sockets: int) -> None:
        """Processes and sockets of an earlier life were found and are gone."""
        self._instruments.counter("leftovers_removed_total", "process").inc(processes)
        self._instruments.counter("leftovers_removed_total", "socket").inc(sockets)

    def trainer_reported(self, report: TrainingReport) -> None:
        """Where training stands, as cumulative values of the trainer's process."""
        instruments = self._instruments
        new_steps = self._advance(report.steps, "train_steps_total")
        self._advance(report.tokens, "train_tokens_total")
        self._advance(report.exchange_seconds, "train_exchange_seconds_total")
        self._advance(report.nonfinite_steps, "train_nonfinite_steps_total")
        self._advance(report.outer_steps, "outer_steps_total")
        for cause, seconds in report.blocked_seconds.items():
            self._advance(seconds, "train_blocked_seconds_total", cause)
        self._exchanged(report)
        for labels, (times, seconds) in report.codec_work.items():
            self._advance(times, "codec_work_total", *labels)
            self._advance(seconds, "codec_work_seconds_total", *labels)
        if report.ab is not None:
            self._ab_reported(report.ab)
        if report.device_memory is not None:
            allocated, reserved = report.device_memory
            instruments.gauge("torch_memory_allocated_bytes").set(allocated)
            instruments.gauge("torch_memory_reserved_bytes").set(reserved)
        instruments.gauge("train_validation_loss").set(report.validation_loss)
        instruments.gauge("train_validation_accuracy_ratio").set(report.validation_accuracy)
        instruments.gauge("train_progress_steps").set(report.progress_steps)
        if not new_steps:
            return  # a mean over no step is no news: a finished node would seem to have diverged
        instruments.gauge("train_loss").set(report.loss)
        instruments.gauge("train_gradient_norm").set(report.gradient_norm)
        instruments.gauge("train_learning_rate").set(report.learning_rate)
        instruments.gauge("train_last_step_timestamp_seconds").set(self._wall_clock())
        durations = instruments.histogram("train_step_duration_seconds")
        for _ in range(int(new_steps)):
            durations.observe(report.step_seconds)

    def _ab_reported(self, report: AbReport) -> None:
        """In a run of AB-training; what is not trained by factors now is unmeasured."""
        now: dict[tuple[str, str], float] = {}
        for layers, kept in kept_by_layers(report.groups).items():
            now["ab_rank_ratio", layers] = kept.rank_ratio
            now["ab_energy_kept_ratio", layers] = kept.energy_ratio
        if report.factor is not None:
            now["ab_compression_ratio", report.factor] = report.compression
        for name in ("ab_rank_ratio", "ab_energy_kept_ratio", "ab_compression_ratio"):
            for gauge in self._instruments.shown(name):
                gauge.set(UNMEASURED)
        for (name, label), value in now.items():
            self._instruments.reveal(name, label)
            self._instruments.gauge(name, label).set(value)

    def meeting_started(self, role: Role) -> None:
        """A meeting has begun for this node."""
        self._instruments.counter("meetings_started_total", role).inc()

    def meeting_reported(self, report: ReportMeeting) -> None:
        """A meeting is over for this node."""
        instruments = self._instruments
        if report.outcome == "failed":
            instruments.counter("meetings_failed_total", report.reason).inc()
            return
        for stream, norm in report.norms:
            instruments.gauge("meeting_correction_norm", stream).set(norm)
        for stream, scale in report.scales:
            instruments.counter("meeting_corrections_clipped_total", stream).inc(scale < 1)
        if report.outcome == "half":
            instruments.counter("meetings_half_total").inc()
            return
        instruments.counter("meetings_completed_total", report.role).inc()
        instruments.counter("meetings_by_link_total", report.link).inc()
        instruments.histogram("meeting_duration_seconds").observe(report.duration_s)
        instruments.gauge("meeting_last_success_timestamp_seconds").set(self._wall_clock())
        for phase, seconds in report.phases:
            instruments.histogram("meeting_phase_duration_seconds", phase).observe(seconds)

    def payload_sent(self, stream: Stream, codec: Codec, num_bytes: int) -> None:
        """This node has handed one stream's share of a meeting message to the link."""
        self._instruments.counter("wire_bytes_total", "sent", stream, codec).inc(num_bytes)

    def payload_received(self, stream: Stream, codec: Codec, num_bytes: int) -> None:
        """One stream's share of a verified meeting message has arrived."""
        self._instruments.counter("wire_bytes_total", "received", stream, codec).inc(num_bytes)

    def message_rejected(self, reason: str) -> None:
        """Something a peer sent or stored was refused: a RefusalReason."""
        self._instruments.counter("messages_rejected_total", reason).inc()

    def peers_counted(self, *, reachable: int, suspect: int, quarantined: int) -> None:
        """How many other members are known, and how many peers are left alone for what they have sent."""
        self._instruments.gauge("peers", "reachable").set(reachable)
        self._instruments.gauge("peers", "suspect").set(suspect)
        self._instruments.gauge("peers", "quarantined").set(quarantined)

    def neighbours_counted(self, neighbours: int) -> None:
        """How many peers the DHT's routing table holds."""
        self._instruments.gauge("dht_routing_table_peers").set(neighbours)

    def reached(self, reachability: Reachability) -> None:
        """How others get to this node."""
        self._instruments.set_exclusive("reachability", reachability)

    def bells_counted(self, own: int, held: int) -> None:
        """How many bells there are, of this node at others and of others here."""
        self._instruments.gauge("bells", "own").set(own)
        self._instruments.gauge("bells", "held").set(held)

    def quarantined(self) -> None:
        """A peer is left alone for a while."""
        self._instruments.counter("quarantines_total").inc()

    def peer_changed(self, event: PeerEvent) -> None:
        """Something has become of a member in the eyes of this node."""
        self._instruments.counter("peer_events_total", event).inc()

    def echo_heard(self, rtt_s: float) -> None:
        """A member has answered at once."""
        self._instruments.histogram("peer_rtt_seconds").observe(rtt_s)

    def clock_compared(self, ahead_s: float) -> None:
        """This machine's clock against those of the others; NaN: not known."""
        self._instruments.gauge("clock_ahead_seconds").set(ahead_s)

    def spread_estimated(self, spread: float) -> None:
        """Of the swarm's weights; 0: not known."""
        self._instruments.gauge("swarm_spread").set(spread or UNMEASURED)

    def dht_requested(self, operation: str, outcome: str, duration_s: float) -> None:
        """A ``get`` or ``put`` has ended ``ok``, in a ``timeout`` or in an ``error``."""
        self._instruments.counter("dht_requests_total", operation, outcome).inc()
        self._instruments.histogram("dht_request_duration_seconds", operation).observe(duration_s)

    def dht_restarted(self) -> None:
        """The DHT had died and was started again."""
        self._instruments.counter("dht_restarts_total").inc()

    def state_downloaded(self, *, has_succeeded: bool) -> None:
        """An attempt to get the state from one donor has ended."""
        self._instruments.counter("state_downloads_total", "ok" if has_succeeded else "failed").inc()

    def healing_began(self, reason: HealReason) -> None:
        """The node gives up its own state for a donor's."""
        self._instruments.counter("heals_total", reason).inc()

    def state_refused(self, reason: str) -> None:
        """A donor's state was not taken: a StateFault, or ``unreadable``."""
        self._instruments.counter("state_refusals_total", reason).inc()

    def state_moved(self, direction: str, num_bytes: int) -> None:
        """A chunk of a snapshot was ``sent`` to a joiner or ``received`` from a donor."""
        self._instruments.counter("state_bytes_total", direction).inc(num_bytes)

    def checkpoint_began(self) -> None:
        """The trainer is about to be asked for a checkpoint."""
        self._checkpoint_began_at = self._clock()

    def checkpoint_written(self, *, has_succeeded: bool) -> None:
        """An attempt to write a checkpoint has ended."""
        self._instruments.counter("checkpoint_writes_total", "ok" if has_succeeded else "failed").inc()
        if has_succeeded:
            self._instruments.gauge("checkpoint_last_success_timestamp_seconds").set(self._wall_clock())
            if self._checkpoint_began_at is not None:
                duration_s = self._clock() - self._checkpoint_began_at
                self._instruments.histogram("checkpoint_duration_seconds").observe(duration_s)
        self._checkpoint_began_at = None

    def checkpoints_take(self, disk: Fullness) -> None:
        """Bytes that all checkpoints take together, and may take; a limit of 0 is none."""
        self._instruments.gauge("checkpoints_bytes").set(disk.taken)
        self._instruments.gauge("checkpoints_limit_bytes").set(disk.limit)

    def line_used(self, *, is_open: bool, month_bytes: int, sent_bytes: int, received_bytes: int) -> None:
        """May the owner's line be used, what has this month cost, and this life of the node?"""
        self._grown(sent_bytes, "line_bytes_total", "sent")
        self._grown(received_bytes, "line_bytes_total", "received")
        self._instruments.gauge("line_closed").set(float(not is_open))
        self._instruments.gauge("line_month_bytes").set(month_bytes)

    def paused(self, reason: PauseReason, seconds: float) -> None:
        """The machine was its owner's for so long."""
        self._instruments.counter("paused_seconds_total", reason).inc(seconds)
        self._trainer_pid = None

    def loop_lagged(self, seconds: float) -> None:
        """The event loop woke up this much later than asked."""
        self._instruments.histogram("eventloop_lag_seconds").observe(max(0.0, seconds))

    def flight_recorded(self, num_bytes: int) -> None:
        """What the flight recorder's events take."""
        self._instruments.gauge("flight_recorder_bytes").set(num_bytes)

    def message_logged(self, level: str) -> None:
        """A log message was written; safe from any thread."""
        self._instruments.counter("log_messages_total", level).inc()

    def _show_build(self, cuda: str) -> None:
        self._instruments.set_info(
            "build_info",
            version=__version__,
            revision=revision(),
            python=platform.python_version(),
            torch=installed("torch"),
            cuda=cuda,
        )

    def _exchanged(self, report: TrainingReport) -> None:
        """What the corrections of meetings have told."""
        corrections: Counter[Stream] = Counter()
        gaps_steps: dict[Stream, float] = {}
        for (stream, codec), sums in report.exchanged.items():
            corrections[stream] += sums.corrections
            gaps_steps[stream] = gaps_steps.get(stream, 0.0) + sums.progress_gap_steps
            self._advance(sums.captured_energy, "meeting_captured_energy_total", stream, codec)
            self._advance(sums.difference_energy, "meeting_difference_energy_total", stream, codec)
            whole_bytes = sums.corrections * self._stream_sizes.get(stream, 0) * _FP32_BYTES
            self._advance(whole_bytes, "wire_raw_bytes_total", stream, codec)
        for stream, count in corrections.items():
            self._advance(count, "meeting_corrections_total", stream)
            self._advance(gaps_steps[stream], "meeting_progress_gap_steps_total", stream)

    def _see(self, fullness: Mapping[str, Fullness]) -> None:
        for word, full in fullness.items():
            names = ("places_taken", "places_limit") if word in PLACES else ("memory_entries", "memory_limit")
            self._instruments.gauge(names[0], word).set(full.taken)
            self._instruments.gauge(names[1], word).set(full.limit)

    def _gpu_read(self, reading: GpuReading) -> None:
        """Show what a GPU tells of itself, and only that."""
        gpu = str(reading.index)
        for name, value in (
            ("gpu_memory_used_bytes", reading.memory_used_bytes),
            ("gpu_memory_size_bytes", reading.memory_size_bytes),
            ("gpu_utilization_ratio", reading.utilization_ratio),
            ("gpu_temperature_celsius", reading.temperature_celsius),
        ):
            if value is not None:
                self._instruments.reveal(name, gpu)
                self._instruments.gauge(name, gpu).set(value)
        if reading.energy_joules is not None:
            self._instruments.reveal("gpu_energy_joules_total", gpu)
            # The driver counts since it was loaded; what the first reading says was not used by this node.
            self._counted.setdefault(("gpu_energy_joules_total", gpu), reading.energy_joules)
            self._grown(reading.energy_joules, "gpu_energy_joules_total", gpu)

    def _grown(self, value: float, name: str, *labels: str) -> None:
        """Add what a sum outside the trainer has grown by."""
        growth = max(0.0, value - self._counted.get((name, *labels), 0.0))
        self._counted[name, *labels] = value
        self._instruments.counter(name, *labels).inc(growth)

    def _advance(self, value: float, name: str, *labels: str) -> float:
        """Add what ``value`` has grown by since the report before; returns the growth.

        A value that shrank without ``trainer_started`` adds nothing: counting it anew from zero could
        count a resumed checkpoint's work twice.
        """
        growth = max(0.0, value - self._seen.get((name, *labels), 0.0))
        self._seen[name, *labels] = value
        self._instruments.counter(name, *labels).inc(growth)
        return growth
