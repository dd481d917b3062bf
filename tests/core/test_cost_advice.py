"""core.cost_advice: nothing where nothing is in the way, else a line that would change it."""

import pytest

from lowcomm_node.core.cost_advice import Room, Whose, advise
from lowcomm_node.core.costs import Circumstances, Flow, Weight, reckon
from lowcomm_node.units import Stream

GB = 10**9


def advice(around: dict[str, float], **room: float) -> dict[str, Whose]:
    """Of a node that starts a meeting of a megabyte each way every 10 s: 518 GB a month, both directions."""
    weight = Weight(
        stream=Stream.PARAMS,
        every_steps=10,
        payload=Flow(sent=500_000, received=500_000),
        framing=Flow(sent=0, received=0),
        last_payload=Flow(sent=500_000, received=500_000),
    )
    rules = {"steps_per_s": 1.0, "joins_per_day": 0.0, "total_steps": 1000, **around}
    costs = reckon([weight], Circumstances(**rules))  # type: ignore[arg-type]
    found = advise(costs, Room(**{"params_every_steps": 10, "total_steps": rules["total_steps"], **room}))  # type: ignore[arg-type]
    assert all(one.why for one in found)
    return {one.line: one.whose for one in found}


def test_nothing_is_said_where_nothing_is_in_the_way() -> None:
    room = {"memory_bytes": GB, "memory_free_bytes": 2 * GB, "disk_bytes": GB, "disk_free_bytes": 2 * GB}
    assert (
        advice({"up_mbit_per_s": 100.0}, up_mbit_per_s=100.0, checkpoint_every_s=600, state_bytes=GB / 10, **room) == {}
    )


def test_a_months_budget_that_is_too_small() -> None:
    """Either the budget that the run asks for, or the period that the budget pays for."""
    assert advice({"monthly_gb": 259.2}, monthly_gb=259.2) == {
        "bandwidth.monthly_gb = 519": Whose.SETTINGS,
        "meeting.params_every_steps = 20": Whose.MANIFEST,
    }


def test_one_period_is_enough() -> None:
    """1 Mbit/s wants 32 steps, and the budget 40."""
    found = advice({"monthly_gb": 129.6, "up_mbit_per_s": 1.0}, monthly_gb=129.6, up_cap_mbit_per_s=1.0)

    assert [line for line, whose in found.items() if whose is Whose.MANIFEST] == ["meeting.params_every_steps = 40"]


def test_a_budget_that_does_not_pay_for_states_has_no_period() -> None:
    found = advice({"monthly_gb": 1.0, "joins_per_day": 1.0, "state_bytes": GB}, monthly_gb=1.0)

    assert list(found.values()) == [Whose.SETTINGS]


def test_a_line_that_is_too_slow() -> None:
    """8 Mbit/s: a meeting takes a second, two of them a fifth of each period; 1 Mbit/s is asked for more than there is."""
    assert advice({"up_mbit_per_s": 8.0}, up_mbit_per_s=8.0) == {}
    assert advice({"up_mbit_per_s": 1.0}, up_mbit_per_s=1.0) == {
        "meeting.params_every_steps = 32": Whose.MANIFEST,
        "bandwidth.up_mbit_per_s = 0.9": Whose.SETTINGS,
    }
    assert "bandwidth.up_mbit_per_s = 0.9" not in advice(
        {"up_mbit_per_s": 1.0}, up_mbit_per_s=1.0, up_cap_mbit_per_s=1.0
    )


@pytest.mark.parametrize(
    ("room", "line", "whose"),
    [
        ({"fitting_micro_batches": 4, "fitting_layers": 2}, "device.micro_batches = 4", Whose.SETTINGS),
        ({"fitting_layers": 2}, "model.num_layers = 2", Whose.MANIFEST),
        ({}, "model.d_model = 96", Whose.MANIFEST),
    ],
)
def test_memory_that_is_too_small(room: dict[str, float], line: str, whose: Whose) -> None:
    """First smaller parts of a batch, then fewer layers, then a narrower model."""
    assert advice({}, memory_bytes=3 * GB, memory_free_bytes=2 * GB, **room) == {line: whose}


def test_a_disk_that_is_too_small() -> None:
    """Fewer checkpoints where that is enough."""
    assert advice({}, disk_bytes=6 * GB, disk_free_bytes=5 * GB, keep=3, state_bytes=GB) == {
        "checkpoint.keep = 2": Whose.SETTINGS
    }
    assert advice({}, disk_bytes=6 * GB, disk_free_bytes=2 * GB, keep=3, state_bytes=GB) == {
        'state_dir = "/a/larger/disk"': Whose.SETTINGS
    }


def test_a_disk_that_is_written_to_death() -> None:
    """10 GB every ten minutes are 1.4 TB a day; every two hours 120 GB."""
    assert advice({}, checkpoint_every_s=600, state_bytes=10 * GB) == {"checkpoint.every_s = 7200": Whose.SETTINGS}


def test_a_schedule_that_nobody_lives_to_see() -> None:
    """A hundred days at this pace: as many steps as fit into thirty."""
    assert advice({"total_steps": 8_640_000}) == {"training.total_steps = 2592000": Whose.MANIFEST}
