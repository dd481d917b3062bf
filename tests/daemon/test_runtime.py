"""What only the trainer refuses reaches quarantine, where it is the partner's fault and can be nobody else's."""

import dataclasses
import math
import struct
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from lowcomm_node.core.events import Member, TrainerReady
from lowcomm_node.core.messages import Offer
from lowcomm_node.core.node import NodeCore
from lowcomm_node.core.quarantine import Quarantine
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.runtime import Runtime
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.sim.node import rules
from lowcomm_node.telemetry.flight.recorder import FlightRecorder
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.desk import MeetingCommand
from lowcomm_node.train.messages import ToTrainer
from lowcomm_node.units import Codec, LinkKind, PeerId, Stream
from tests.train.pairs import Pair, tiny_manifest, tiny_meeting

PARTNER = PeerId("i")


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class Answerer:
    """The daemon's loop with a real core, a real desk and its own quarantine; ``i`` of the pair is who offers."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.clock = Clock()
        self.quarantine = Quarantine()
        self.recorder = Recorder(Metrics())
        self.runtime = Runtime(
            core=FlightRecorder(NodeCore(rules("j")), max_entries=100),
            manifest=tiny_manifest(),
            verify=lambda _: Member(
                peer=PARTNER, grpc_address="", progress_steps=0.0, has_state=True, expires_at=self.clock.now + 60.0
            ),
            clock=self.clock,
            recorder=self.recorder,
            send_to_trainer=self._serve,
            freeze=lambda _: None,
            on_cure=lambda _: None,
            on_offence=self._offended,
        )
        self.runtime.handle(TrainerReady())

    def take(self, offer: Offer) -> None:
        """It comes in; a minute passes."""
        self.runtime.message_received(offer, LinkKind.GRPC)
        self.clock.now += 60.0

    @property
    def is_left_alone(self) -> bool:
        return self.quarantine.left_s(PARTNER, self.clock.now - 60.0) > 0

    def counted(self, reason: RefusalReason) -> float:
        line = f'lowcomm_messages_rejected_total{{reason="{reason.value}"}} '
        (value,) = [row for row in self.recorder.metrics.exposition().decode().splitlines() if row.startswith(line)]
        return float(value.removeprefix(line))

    def _serve(self, command: ToTrainer) -> None:
        if isinstance(command, MeetingCommand) and (event := self.pair.desk_j.handle(command)) is not None:
            self.runtime.trainer_said(event)

    def _offended(self, peer: PeerId, error: RemoteProtocolError) -> None:
        self.recorder.rejected(error.reason, error.detail)
        self.quarantine.offended(peer, error.reason, self.clock.now)


def _cut(offer: Offer) -> Offer:
    return dataclasses.replace(offer, parts=(offer.parts[0][:-2],))


def _nan(offer: Offer) -> Offer:
    return dataclasses.replace(offer, parts=(struct.pack("<H", 0x7FC0) + offer.parts[0][2:],))


def _misshapen(offer: Offer) -> Offer:
    plan = dataclasses.replace(offer.plans[0], ranks=(10**6, *offer.plans[0].ranks[1:]))
    return dataclasses.replace(offer, plans=(plan,))


def _too_wide(offer: Offer) -> Offer:
    plan = dataclasses.replace(offer.plans[0], ranks=(-1,) * len(offer.plans[0].ranks))
    return dataclasses.replace(offer, plans=(plan,))


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (_cut, RefusalReason.MALFORMED),
        (_nan, RefusalReason.NONFINITE),
        (_misshapen, RefusalReason.MALFORMED),
        (_too_wide, RefusalReason.OVERSIZED),
    ],
)
def test_three_payloads_that_no_sound_node_sends(spoilt: Callable[[Offer], Offer], reason: RefusalReason) -> None:
    """Each is counted by its reason; the third sends its sender into quarantine."""
    pair = Pair(tiny_manifest())
    answerer = Answerer(pair)
    for number in range(1, 4):
        assert not answerer.is_left_alone
        answerer.take(spoilt(pair.offer(Stream.PARAMS)))
        assert answerer.counted(reason) == number
    assert answerer.is_left_alone


def test_honest_partners_are_never_left_alone() -> None:
    """Ten offers each of one who is ahead of us and already meets densely, and of a sound one while our own weights are NaN."""
    pair = Pair(tiny_manifest(tiny_meeting(dense_last_ratio=0.5)))
    answerer = Answerer(pair)
    for _ in range(10):
        ahead = pair.offer(Stream.PARAMS, is_dense=True)
        assert ahead.plans[0].codec is Codec.DENSE
        answerer.take(ahead)
    assert answerer.counted(RefusalReason.OVERSIZED) == 10

    for theta in pair.j.theta:
        theta.fill_(math.nan)
    for _ in range(10):
        answerer.take(pair.offer(Stream.PARAMS))
    assert answerer.counted(RefusalReason.NONFINITE) == 10
    assert not answerer.is_left_alone


def test_a_flood_is_counted_and_does_not_fill_the_log() -> None:
    """One line for each reason until some time has passed; every single one is in the metric."""
    recorder = Recorder(Metrics())

    with capture_logs() as lines:
        for _ in range(200):
            recorder.rejected(RefusalReason.TOO_MANY, "eve: one more")
        recorder.rejected(RefusalReason.MALFORMED, "eve: odd")

    warned = [line["reason"] for line in lines if line["log_level"] == "warning"]
    assert warned == ["too_many", "malformed"]
    assert 'lowcomm_messages_rejected_total{reason="too_many"} 200.0' in recorder.metrics.exposition().decode()
