"""The owner's word, his machine and what is told of it, in virtual time."""

import math
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lowcomm_node.core.owner import GpuUse, PauseReason, Seen
from lowcomm_node.daemon.owner_watch import OwnerWatch
from lowcomm_node.daemon.pause_file import PauseFile
from lowcomm_node.settings.node import OwnerSettings
from lowcomm_node.train.messages import Ready
from tests.daemon.virtual_time import run_virtually

_START = 1_800_000_000.0


class Owner:
    """A machine whose state a test sets, and its watch on the loop's clock."""

    def __init__(self, folder: Path) -> None:
        self.seen = Seen(minute_of_day=720)
        self.now = 0.0
        self.fails = False
        self.has_state = True
        self.ready: Ready | None = None
        self.watch = OwnerWatch(
            OwnerSettings(),
            folder,
            look=self.look,
            training=self,
            clock=lambda: self.now,
            wall=lambda: _START + self.now,
        )

    def look(self) -> Seen:
        if self.fails:
            raise KeyError("power_supply")
        return self.seen

    def reasons(self) -> tuple[PauseReason, ...]:
        return self.watch.reasons


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path)


def test_a_word_counts_at_once_and_over_restarts(owner: Owner, tmp_path: Path) -> None:
    """Before the next look; and the next life begins with it."""
    owner.watch.pause(0.0)

    assert owner.reasons() == (PauseReason.COMMAND,)
    assert "until 'lowcomm-node resume'" in owner.watch.sentence()
    next_life = Owner(tmp_path)
    run_virtually(next_life.watch.open)
    assert next_life.reasons() == (PauseReason.COMMAND,)
    next_life.watch.resume()
    assert next_life.reasons() == ()
    assert PauseFile(tmp_path).read() is None


def test_a_pause_for_a_while_ends_by_itself(owner: Owner, tmp_path: Path) -> None:
    """When its time is over, also while the node was not running; until then it is told how long."""
    owner.watch.pause(3600.0)
    owner.now = 600.0
    assert owner.watch.status().ends_in_seconds == 3000.0
    assert owner.watch.sentence().startswith("its owner has said so, until ")

    owner.now = 3599.0
    owner.watch._decide()
    assert owner.reasons()
    owner.now = 3600.0
    owner.watch._decide()
    assert owner.reasons() == ()
    assert PauseFile(tmp_path).read() is None

    owner.watch.pause(10.0)
    late = Owner(tmp_path)
    late.now = 5000.0
    run_virtually(late.watch.open)
    assert late.reasons() == ()


@pytest.mark.parametrize("length", [-1.0, math.nan, math.inf, 1e300])
def test_any_length_is_a_pause(owner: Owner, length: float) -> None:
    """What makes no sense is one without an end, and status and words are made of it all the same."""
    owner.watch.pause(length)

    assert owner.watch.status().ends_in_seconds == 0.0
    assert "resume" in owner.watch.sentence()


def test_the_word_does_not_hide_what_else_there_is(owner: Owner) -> None:
    """On battery, too: taking the word back does not end the pause."""

    async def scenario() -> None:
        await owner.watch.open()
        owner.watch.pause(0.0)
        owner.seen = Seen(minute_of_day=720, on_battery=True)
        for second in range(0, 14, 2):
            owner.now = float(second)
            owner.watch._seen = owner.look()
            owner.watch._decide()
        assert owner.reasons() == (PauseReason.COMMAND, PauseReason.BATTERY)
        owner.watch.resume()
        assert owner.reasons() == (PauseReason.BATTERY,)
        assert owner.watch.sentence() == "this machine runs on its battery (owner.pause_on_battery)"

    run_virtually(scenario)


def test_a_machine_that_cannot_be_read_ends_no_node_and_no_pause_of_its_owners(owner: Owner) -> None:
    """What was seen before counts no more; the owner's word does, and what is seen again afterwards."""

    async def scenario() -> None:
        owner.fails = True
        owner.watch.pause(0.0)
        await owner.watch.open()
        assert owner.reasons() == (PauseReason.COMMAND,)
        owner.watch.resume()
        assert owner.reasons() == ()
        owner.fails, owner.seen = False, Seen(minute_of_day=720, on_battery=True)
        for second in range(0, 14, 2):
            owner.now = float(second)
            await owner.watch._look_at_machine()
        assert owner.reasons() == (PauseReason.BATTERY,)

    run_virtually(scenario)


def test_a_gpu_whose_use_cannot_be_told_is_said_once(owner: Owner) -> None:
    """The incident: in a container the driver names processes by other numbers, and yield_gpu was off without a word."""
    use = GpuUse(others_ratio=0.0, others_bytes=0, own_bytes=1, free_bytes=1, size_bytes=2)

    def told(device: str, *, gpus: dict[int, GpuUse]) -> int:
        """Lines about it, of three minutes of looks."""
        owner.ready = Ready(
            parameters=1,
            shapes=(),
            snapshot_bytes_max=1,
            train_tokens=1,
            validation_tokens=1,
            device=device,
            stream_sizes={},
        )
        owner.seen = Seen(minute_of_day=720, gpus=gpus)
        with capture_logs() as logs:
            for _ in range(90):
                owner.now += 2.0
                run_virtually(owner.watch._look_at_machine)
        return [line["event"] for line in logs].count("gpu_use_unseen")

    assert told("cpu", gpus={}) == 0
    assert told("cuda", gpus={0: use}) == 0
    owner.has_state = False
    assert told("cuda", gpus={}) == 0
    owner.has_state = True
    assert told("cuda", gpus={}) == 1
    assert told("cuda", gpus={}) == 0
