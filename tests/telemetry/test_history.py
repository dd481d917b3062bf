"""telemetry.history: the whole life at bounded size."""

from lowcomm_node.telemetry.history import HistoryRing
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import (
    History,
    MeetingStatus,
    Status,
    SwarmStatus,
    TrainingStatus,
    WireBytes,
)


def _status(steps: int) -> Status:
    return Status(
        training=TrainingStatus(steps=steps, loss=3.0, validation_loss=2.5, tokens=64 * steps, tokens_per_second=100.0),
        meetings=MeetingStatus(
            completed=steps // 10,
            bytes=[
                WireBytes(direction="sent", stream="params", bytes=steps),
                WireBytes(direction="sent", stream="momentum", bytes=1),
                WireBytes(direction="received", stream="params", bytes=2 * steps),
            ],
        ),
        swarm=SwarmStatus(validation_loss=2.0, spread=0.25),
    )


def test_a_look_has_what_the_status_says() -> None:
    """Bytes are summed over streams, by direction."""
    ring = HistoryRing()
    ring.see(_status(20), now=5.0, unix_s=1000.0)

    assert ring.message() == History(
        every_seconds=2.0, unix_seconds=[1000.0], loss=[3.0], validation_loss=[2.5], swarm_loss=[2.0], spread=[0.25],
        progress_steps=[0.0], tokens_per_second=[100.0], tokens=[1280], bytes_sent=[21], bytes_received=[40], meetings=[2],
    )  # fmt: skip


def test_before_training_there_is_nothing_to_remember() -> None:
    """Minutes of connecting and downloading would be a flat beginning of every plot."""
    ring = HistoryRing()
    ring.see(_status(0), now=5.0, unix_s=1000.0)

    assert ring.message() == History(every_seconds=2.0)


def test_a_long_life_stays_in_sight_at_bounded_size() -> None:
    """First and newest moments are there, ever farther apart, and never more than the limit."""
    ring = HistoryRing(every_s=1.0, max_looks=8)
    for second in range(1000):
        ring.see(_status(second + 1), now=float(second), unix_s=float(second))
        assert len(ring.message().unix_seconds) <= 8

    seen = ring.message()
    gaps = {later - earlier for earlier, later in zip(seen.unix_seconds, seen.unix_seconds[1:], strict=False)}
    assert seen.unix_seconds[0] < 1000 / 8 * 2
    assert seen.unix_seconds[-1] > 1000 - 2 * seen.every_seconds
    assert max(gaps) <= 2 * seen.every_seconds


def test_looks_are_no_closer_than_agreed() -> None:
    """The loop may show its status four times a second."""
    ring = HistoryRing(every_s=2.0)
    for quarter in range(40):
        ring.see(_status(1), now=quarter / 4, unix_s=quarter / 4)

    assert list(ring.message().unix_seconds) == [0.0, 2.0, 4.0, 6.0, 8.0]
