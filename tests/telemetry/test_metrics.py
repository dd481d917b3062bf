"""Metrics: what is exposed, what a happening changes, and what a restart of the trainer does not."""

import math
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lowcomm_node.core.ab_stages import Stage
from lowcomm_node.core.churn import PeerEvent
from lowcomm_node.core.commands import ReportMeeting, Role
from lowcomm_node.core.places import Fullness
from lowcomm_node.core.supervision import Cause
from lowcomm_node.errors import RefusalReason
from lowcomm_node.ports import GpuReading
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.telemetry.catalogue import CATALOGUE
from lowcomm_node.telemetry.catalogue.words import MEMORIES, PLACES
from lowcomm_node.telemetry.metric import label_sets
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.exchanged import Exchanged
from lowcomm_node.train.messages import AbGroup, AbReport, Report
from lowcomm_node.units import Codec, Factor, MeetingId, PeerId, RunId, Stream

_NOW = 1_700_000_000.0
_MAX_SERIES = 600
_SIZES = {Stream.PARAMS: 1000, Stream.MOMENTUM: 900, Stream.EXP_AVG: 100}

_REPORT = Report(
    steps=10,
    tokens=1000,
    loss=2.5,
    validation_loss=math.nan,
    learning_rate=1e-3,
    gradient_norm=0.8,
    progress_steps=9.5,
    step_seconds=0.2,
    tokens_per_second=500.0,
    blocked_seconds={"meeting": 0.0, "data": 1.5, "sync": 0.0},
    exchange_seconds=0.25,
    nonfinite_steps=1,
    outer_steps=2,
)
_MEETING = ReportMeeting(
    meeting_id=MeetingId("ab" * 16),
    peer=PeerId("12D3KooWPartner"),
    role=Role.INITIATOR,
    streams=(Stream.PARAMS,),
    outcome="completed",
    reason="",
    duration_s=0.3,
    norms=((Stream.PARAMS, 0.7),),
    scales=((Stream.PARAMS, 1.0),),
    phases=(("encoding", 0.05), ("offered", 0.25)),
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(wall_clock=lambda: _NOW)


def _samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def _value(metrics: Metrics, name: str, **labels: str) -> float:
    return _samples(metrics)[f"lowcomm_{name}", frozenset(labels.items())]


def test_all_of_the_catalogue_is_exposed_from_the_start(metrics: Metrics) -> None:
    """A fresh node shows every label combination, counters and histograms at zero."""
    samples = _samples(metrics)

    for metric in CATALOGUE:
        if metric.kind == "info" or metric.needs:
            continue
        suffix = "_count" if metric.kind == "histogram" else ""
        for values in label_sets(metric):
            value = samples[f"lowcomm_{metric.name}{suffix}", frozenset(zip(metric.labels, values, strict=True))]
            assert value == 0 or (metric.kind == "gauge" and math.isnan(value))


def test_nothing_outside_the_catalogue_is_exposed(metrics: Metrics) -> None:
    """Families are those of the catalogue and the two process collectors; none says when it was created."""
    known = {f"lowcomm_{metric.name}" for metric in CATALOGUE}

    for family in text_string_to_metric_families(metrics.exposition().decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert name in known or re.match(r"(lowcomm_trainer_)?process_", name)
        assert not any(sample.name.endswith("_created") for sample in family.samples)


def test_series_stay_within_the_budget_and_do_not_grow(metrics: Metrics) -> None:
    """Whatever words come in, the number of series is that of a fresh node and below the budget."""
    metrics.identify(PeerId("12D3KooWSelf"), RunId("00" * 32), Manifest(), "cpu")
    metrics.trainer_started(os.getpid(), stream_sizes=_SIZES, cuda="none")
    fresh = len(_samples(metrics))

    for number in range(200):
        metrics.meeting_reported(replace(_MEETING, outcome="failed", reason=f"strange{number}"))
        metrics.message_rejected(f"strange{number}")

    assert len(_samples(metrics)) == fresh <= _MAX_SERIES
    assert _value(metrics, "meetings_failed_total", reason="other") == 200
    assert _value(metrics, "messages_rejected_total", reason="other") == 200


@pytest.mark.parametrize(
    "reason", [*RefusalReason, "busy", "yielded", "unreachable", "disconnect", "timeout", "trainer"]
)
def test_every_reason_of_the_core_has_its_own_series(metrics: Metrics, reason: str) -> None:
    """No reason that core.commands documents ends up as ``other``."""
    metrics.meeting_reported(replace(_MEETING, outcome="failed", reason=str(reason)))

    assert _value(metrics, "meetings_failed_total", reason=str(reason)) == 1


def test_a_report_moves_counters_by_its_growth(metrics: Metrics) -> None:
    """Cumulative values become increments: two reports count what the second one holds, not their sum."""
    metrics.trainer_started(os.getpid(), stream_sizes=_SIZES, cuda="none")
    metrics.trainer_reported(_REPORT)
    metrics.trainer_reported(replace(_REPORT, steps=13, tokens=1300, blocked_seconds={"data": 2.0}, loss=2.4))

    assert _value(metrics, "train_steps_total") == 13
    assert _value(metrics, "train_tokens_total") == 1300
    assert _value(metrics, "train_blocked_seconds_total", cause="data") == 2.0
    assert _value(metrics, "train_blocked_seconds_total", cause="meeting") == 0
    assert _value(metrics, "train_exchange_seconds_total") == 0.25
    assert _value(metrics, "outer_steps_total") == 2
    assert _value(metrics, "train_nonfinite_steps_total") == 1
    assert _value(metrics, "train_loss") == 2.4
    assert _value(metrics, "train_last_step_timestamp_seconds") == _NOW
    assert _value(metrics, "train_step_duration_seconds_count") == 13
    assert _value(metrics, "train_step_duration_seconds_bucket", le="0.25") == 13
    assert _value(metrics, "train_step_duration_seconds_bucket", le="0.1") == 0


def test_a_restarted_trainer_counts_on(metrics: Metrics) -> None:
    """A new trainer process starts at zero, its counters do not; work redone from a checkpoint is work done."""
    metrics.trainer_started(os.getpid(), stream_sizes=_SIZES, cuda="none")
    metrics.trainer_reported(replace(_REPORT, steps=100, tokens=10_000))

    metrics.trainer_restarted(Cause.KILLED)
    metrics.trainer_started(os.getpid(), stream_sizes=_SIZES, cuda="none")
    metrics.trainer_resumed(steps=80, tokens=8_000)
    metrics.trainer_reported(replace(_REPORT, steps=85, tokens=8_500))

    assert _value(metrics, "trainer_restarts_total", reason="killed") == 1
    assert _value(metrics, "train_steps_total") == 105
    assert _value(metrics, "train_tokens_total") == 10_500
    assert _value(metrics, "train_exchange_seconds_total") == 0.5
    assert _value(metrics, "outer_steps_total") == 4


def test_a_counter_never_falls(metrics: Metrics) -> None:
    """A report whose values shrank without a word adds nothing, and growth is counted from there."""
    metrics.trainer_reported(replace(_REPORT, steps=100))
    metrics.trainer_reported(replace(_REPORT, steps=90))
    metrics.trainer_reported(replace(_REPORT, steps=92))

    assert _value(metrics, "train_steps_total") == 102


def test_a_report_without_steps_leaves_the_step_gauges(metrics: Metrics) -> None:
    """A finished trainer's mean loss over no step is NaN: it must not look like divergence."""
    metrics.trainer_reported(_REPORT)
    metrics.trainer_reported(replace(_REPORT, loss=math.nan, gradient_norm=0.0, validation_loss=1.9))

    assert _value(metrics, "train_loss") == 2.5
    assert _value(metrics, "train_gradient_norm") == 0.8
    assert _value(metrics, "train_validation_loss") == 1.9


def test_a_completed_meeting(metrics: Metrics) -> None:
    """It counts for its role, leaves its time, that of its phases, and its norm."""
    metrics.trainer_started(os.getpid(), stream_sizes=_SIZES, cuda="none")
    metrics.meeting_started(Role.INITIATOR)
    metrics.meeting_reported(_MEETING)
    metrics.payload_sent(Stream.PARAMS, Codec.AB, 700)
    metrics.payload_received(Stream.PARAMS, Codec.AB, 600)

    assert _value(metrics, "meetings_started_total", role="initiator") == 1
    assert _value(metrics, "meetings_completed_total", role="initiator") == 1
    assert _value(metrics, "meetings_completed_total", role="answerer") == 0
    assert _value(metrics, "meeting_duration_seconds_count") == 1
    assert _value(metrics, "meeting_last_success_timestamp_seconds") == _NOW
    assert _value(metrics, "meeting_correction_norm", stream="params") == 0.7
    assert _value(metrics, "meeting_phase_duration_seconds_sum", phase="offered") == 0.25
    assert _value(metrics, "meeting_phase_duration_seconds_count", phase="settled") == 0
    assert _value(metrics, "wire_bytes_total", direction="sent", stream="params", codec="ab") == 700
    assert _value(metrics, "wire_bytes_total", direction="received", stream="params", codec="ab") == 600


def test_each_stream_is_compared_with_its_own_size(metrics: Metrics) -> None:
    """Muon's momentum covers the hidden matrices, Adam's moments beside it the rest: neither is as large as the model."""
    metrics.trainer_started(os.getpid(), stream_sizes=_SIZES, cuda="none")
    twice = Exchanged(corrections=2)
    exchanged = {(Stream.MOMENTUM, Codec.AB): twice, (Stream.EXP_AVG, Codec.DENSE): twice}
    metrics.trainer_reported(replace(_REPORT, exchanged=exchanged))

    assert _value(metrics, "wire_raw_bytes_total", stream="momentum", codec="ab") == 7200
    assert _value(metrics, "wire_raw_bytes_total", stream="momentum", codec="dense") == 0
    assert _value(metrics, "wire_raw_bytes_total", stream="exp_avg", codec="dense") == 800
    assert _value(metrics, "wire_raw_bytes_total", stream="params", codec="ab") == 0


def test_clipped_corrections_count_by_stream(metrics: Metrics) -> None:
    """A scale below 1 counts, with whatever stream it was for; a whole correction does not."""
    metrics.meeting_reported(replace(_MEETING, scales=((Stream.PARAMS, 0.2), (Stream.EXP_AVG_SQ, 1.0))))
    metrics.meeting_reported(_MEETING)

    assert _value(metrics, "meeting_corrections_clipped_total", stream="params") == 1
    assert _value(metrics, "meeting_corrections_clipped_total", stream="exp_avg_sq") == 0


def test_outcomes_of_meetings_exclude_each_other(metrics: Metrics) -> None:
    """A half meeting is neither completed nor failed."""
    metrics.meeting_reported(replace(_MEETING, outcome="half", reason="disconnect"))

    assert _value(metrics, "meetings_half_total") == 1
    samples = _samples(metrics)
    for name in ("lowcomm_meetings_completed_total", "lowcomm_meetings_failed_total"):
        assert sum(value for (sample, _), value in samples.items() if sample == name) == 0
    assert _value(metrics, "meeting_last_success_timestamp_seconds") == 0


def test_the_node_is_in_one_state(metrics: Metrics) -> None:
    """Entering a state leaves the one before."""
    metrics.state_changed("syncing")
    metrics.state_changed("training")

    states = {labels: value for (name, labels), value in _samples(metrics).items() if name == "lowcomm_node_state"}
    assert states[frozenset({("state", "training")})] == 1
    assert sum(states.values()) == 1


def test_outcomes_of_the_rest(metrics: Metrics) -> None:
    """Checkpoints, downloads, directory, peers, lag and logs each land in their own series."""
    metrics.checkpoint_written(has_succeeded=False)
    assert _value(metrics, "checkpoint_last_success_timestamp_seconds") == 0
    metrics.checkpoint_written(has_succeeded=True)
    metrics.state_downloaded(has_succeeded=False)
    metrics.state_refused("initial")
    metrics.state_moved("sent", 1000)
    metrics.dht_requested("put", "timeout", 0.3)
    metrics.dht_restarted()
    metrics.peers_counted(reachable=5, suspect=1, quarantined=4)
    metrics.loop_lagged(-0.001)
    metrics.message_logged("error")
    metrics.message_rejected("checksum")

    assert _value(metrics, "checkpoint_writes_total", outcome="failed") == 1
    assert _value(metrics, "checkpoint_writes_total", outcome="ok") == 1
    assert _value(metrics, "checkpoint_last_success_timestamp_seconds") == _NOW
    assert _value(metrics, "state_downloads_total", outcome="failed") == 1
    assert _value(metrics, "state_refusals_total", reason="initial") == 1
    assert _value(metrics, "state_bytes_total", direction="sent") == 1000
    assert _value(metrics, "dht_requests_total", operation="put", outcome="timeout") == 1
    assert _value(metrics, "dht_request_duration_seconds_sum", operation="put") == 0.3
    assert _value(metrics, "dht_request_duration_seconds_count", operation="get") == 0
    assert _value(metrics, "dht_restarts_total") == 1
    assert _value(metrics, "peers", state="reachable") == 5
    assert _value(metrics, "eventloop_lag_seconds_sum") == 0
    assert _value(metrics, "log_messages_total", level="error") == 1
    assert _value(metrics, "messages_rejected_total", reason="checksum") == 1


def test_what_meetings_tell_counts_by_stream_and_codec(metrics: Metrics) -> None:
    """Sums of the trainer's process become counters that a new process does not set back; sizes are those of the streams."""
    codecs = (Codec.SPARSE, Codec.DENSE)
    told = Exchanged(corrections=3, captured_energy=1.5, difference_energy=6.0, progress_gap_steps=9.0)
    for _ in range(2):
        metrics.trainer_started(os.getpid(), stream_sizes=_SIZES, cuda="none")
        metrics.trainer_reported(replace(_REPORT, exchanged={(Stream.PARAMS, codec): told for codec in codecs}))

    assert _value(metrics, "meeting_corrections_total", stream="params") == 12
    assert _value(metrics, "meeting_progress_gap_steps_total", stream="params") == 36.0
    for codec in codecs:
        assert _value(metrics, "meeting_captured_energy_total", stream="params", codec=codec) == 3.0
        assert _value(metrics, "meeting_difference_energy_total", stream="params", codec=codec) == 12.0
    assert _value(metrics, "meeting_captured_energy_total", stream="params", codec="ab") == 0
    assert _value(metrics, "meeting_corrections_total", stream="momentum") == 0
    assert _value(metrics, "stream_values", stream="momentum") == 900
    assert _value(metrics, "stream_values", stream="exp_avg_sq") == 0


def test_the_work_of_codecs_and_the_memory_of_torch(metrics: Metrics) -> None:
    """Sums become counters; memory is told of a GPU alone."""
    work = {("offer", Codec.AB): (2, 0.5), ("apply", Codec.RANK1): (1, 0.25)}
    metrics.trainer_reported(replace(_REPORT, codec_work=work))
    assert math.isnan(_value(metrics, "torch_memory_reserved_bytes"))
    metrics.trainer_reported(replace(_REPORT, codec_work=work, device_memory=(100, 300)))

    assert _value(metrics, "codec_work_total", operation="offer", codec="ab") == 2
    assert _value(metrics, "codec_work_seconds_total", operation="offer", codec="ab") == 0.5
    assert _value(metrics, "codec_work_seconds_total", operation="apply", codec="rank1") == 0.25
    assert _value(metrics, "torch_memory_allocated_bytes") == 100
    assert _value(metrics, "torch_memory_reserved_bytes") == 300


def test_the_build_is_one_series(metrics: Metrics) -> None:
    """What the trainer's torch is built for is known once it runs."""
    metrics.trainer_started(os.getpid(), stream_sizes=_SIZES, cuda="13.0")

    (build,) = [dict(labels) for name, labels in _samples(metrics) if name == "lowcomm_build_info"]
    assert build["cuda"] == "13.0"
    assert build["revision"]


def test_the_line_counts_everything_both_ways(metrics: Metrics) -> None:
    """Sums so far become counters."""
    metrics.line_used(is_open=True, month_bytes=70, sent_bytes=10, received_bytes=5)
    metrics.line_used(is_open=False, month_bytes=90, sent_bytes=30, received_bytes=5)

    assert _value(metrics, "line_bytes_total", direction="sent") == 30
    assert _value(metrics, "line_bytes_total", direction="received") == 5
    assert _value(metrics, "line_closed") == 1
    assert _value(metrics, "line_month_bytes") == 90


def test_a_checkpoint_that_was_written_leaves_its_time() -> None:
    """From asking to durable; one that fails leaves none."""
    now = 0.0
    metrics = Metrics(wall_clock=lambda: _NOW, clock=lambda: now)
    metrics.checkpoint_began()
    now = 4.0
    metrics.checkpoint_written(has_succeeded=False)
    metrics.checkpoint_began()
    now = 6.0
    metrics.checkpoint_written(has_succeeded=True)

    assert _value(metrics, "checkpoint_duration_seconds_count") == 1
    assert _value(metrics, "checkpoint_duration_seconds_sum") == 2.0


def test_fullness_is_asked_at_each_scrape(metrics: Metrics) -> None:
    """Places and memories by their words, each with its limit; what nobody has told of has none."""
    taken = 3
    metrics.watch(lambda: {"door": Fullness(taken, 128)})
    metrics.watch(lambda: {"members": Fullness(10, 64)})
    assert _value(metrics, "places_taken", place="door") == 3
    taken = 4

    assert _value(metrics, "places_taken", place="door") == 4
    assert _value(metrics, "places_limit", place="door") == 128
    assert _value(metrics, "memory_entries", memory="members") == 10
    assert _value(metrics, "memory_limit", memory="members") == 64
    assert _value(metrics, "places_limit", place="bells") == 0
    assert not set(PLACES) & set(MEMORIES)


def test_what_is_known_of_the_others(metrics: Metrics) -> None:
    """Events of members, echoes, the clock and the spread; what is not known is NaN and not 0."""
    assert math.isnan(_value(metrics, "clock_ahead_seconds"))
    metrics.peer_changed(PeerEvent.GONE)
    metrics.echo_heard(0.03)
    metrics.clock_compared(-0.25)
    metrics.spread_estimated(0.5)
    metrics.checkpoints_take(Fullness(700, 1000))

    assert _value(metrics, "peer_events_total", event="gone") == 1
    assert _value(metrics, "peer_rtt_seconds_sum") == 0.03
    assert _value(metrics, "clock_ahead_seconds") == -0.25
    assert _value(metrics, "swarm_spread") == 0.5
    assert _value(metrics, "checkpoints_bytes") == 700
    assert _value(metrics, "checkpoints_limit_bytes") == 1000
    metrics.spread_estimated(0.0)
    assert math.isnan(_value(metrics, "swarm_spread"))


def test_ab_training_is_shown_in_runs_of_it(metrics: Metrics) -> None:
    """By layers and for the factor that is trained; unmeasured in between; a few series, and none in other runs."""

    def shown() -> dict[str, float]:
        found = _samples(metrics).items()
        return {"/".join(dict(labels).values()) + name[10:]: v for (name, labels), v in found if "lowcomm_ab_" in name}

    metrics.trainer_reported(_REPORT)
    assert shown() == {}
    groups = (
        AbGroup(name="blocks.*.attention.query", tensors=3, rank=10, whole_rank=96, energy_kept=0.5),
        AbGroup(name="blocks.*.attention.out", tensors=1, rank=14, whole_rank=32, energy_kept=0.9),
        AbGroup(name="head.weight", tensors=1, rank=8, whole_rank=8, energy_kept=1.0),
    )
    ab = AbReport(stage=Stage.FACTORS, epoch=1, digest="ab" * 32, factor=Factor.B, groups=groups, compression=4.0)
    metrics.trainer_reported(replace(_REPORT, ab=ab))
    assert shown() == {
        "attention_rank_ratio": 24 / 128,
        "other_rank_ratio": 1.0,
        "attention_energy_kept_ratio": pytest.approx(0.6),
        "other_energy_kept_ratio": 1.0,
        "b_compression_ratio": 4.0,
    }
    metrics.trainer_reported(replace(_REPORT, ab=AbReport(stage=Stage.REBOUND, epoch=1)))
    assert len(shown()) == 5
    assert all(map(math.isnan, shown().values()))


def test_gpus_are_shown_as_far_as_they_tell() -> None:
    """Asked at each scrape; energy counts from the first reading on; what a GPU keeps to itself has no series."""
    energy_joules = 5000.0

    def read() -> tuple[GpuReading, ...]:
        return (
            GpuReading(
                index=1,
                memory_used_bytes=4 << 30,
                memory_size_bytes=8 << 30,
                utilization_ratio=0.5,
                temperature_celsius=None,
                energy_joules=energy_joules,
            ),
        )

    metrics = Metrics(wall_clock=lambda: _NOW, gpus=read)
    assert _value(metrics, "gpu_energy_joules_total", gpu="1") == 0
    energy_joules = 5300.0

    assert _value(metrics, "gpu_energy_joules_total", gpu="1") == 300
    assert _value(metrics, "gpu_memory_used_bytes", gpu="1") == 4 << 30
    assert _value(metrics, "gpu_memory_size_bytes", gpu="1") == 8 << 30
    assert _value(metrics, "gpu_utilization_ratio", gpu="1") == 0.5
    assert not any(name == "lowcomm_gpu_temperature_celsius" for name, _ in _samples(metrics))
    assert not any(("gpu", "0") in labels for _, labels in _samples(metrics))


def test_identity_is_one_series(metrics: Metrics) -> None:
    """Saying it again replaces it: a node has one identity."""
    for name in ("first", "second"):
        metrics.identify(PeerId("12D3KooWSelf"), RunId("00"), Manifest(name=name), "cpu")

    infos = [labels for name, labels in _samples(metrics) if name == "lowcomm_node_info"]
    assert [dict(labels)["run_name"] for labels in infos] == ["second"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="process metrics are read from /proc")
def test_the_trainer_process_is_shown_while_it_lives(metrics: Metrics) -> None:
    """Memory of the child by its pid; none before it starts, and a dead one does not break the page."""
    name = ("lowcomm_trainer_process_resident_memory_bytes", frozenset[tuple[str, str]]())
    assert name not in _samples(metrics)

    metrics.trainer_started(os.getpid(), stream_sizes=_SIZES, cuda="none")
    assert _samples(metrics)[name] > 0

    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    metrics.trainer_started(child.pid, stream_sizes=_SIZES, cuda="none")
    assert name not in _samples(metrics)
