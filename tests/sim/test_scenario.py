"""What defines a simulation, and what is refused."""

from pathlib import Path

import pytest

from lowcomm_node.errors import ConfigError
from lowcomm_node.sim.plan import plan_manifest
from lowcomm_node.sim.scenario import Change, Level, Partition, Scenario, parse_partition, parse_trace


def test_partitions_and_traces_are_read() -> None:
    """Minutes on the command line, seconds in a trace file with comments."""
    assert parse_partition("0.3@2-4.5") == Partition(0.3, 120.0, 270.0)
    assert parse_trace("# a bad evening\n10, kill, 3\n\n20.5,join,1 # back\n", "f") == (
        Change(10.0, "kill", 3),
        Change(20.5, "join", 1),
    )


@pytest.mark.parametrize("text", ["0.3", "0.3@4", "x@1-2", "0.3@1-2-3"])
def test_a_partition_that_is_none_is_shown_how_to_write_it(text: str) -> None:
    """The message has an example."""
    with pytest.raises(ConfigError, match=r"--partition 0\.3@2-4"):
        parse_partition(text)


@pytest.mark.parametrize("line", ["1,explode,2", "1,kill", "x,kill,1", "1,kill,0", "-1,kill,1"])
def test_a_trace_names_file_and_line(line: str) -> None:
    """So that it can be mended."""
    with pytest.raises(ConfigError, match=r"^evening\.csv:2: "):
        parse_trace(f"1,kill,1\n{line}\n", "evening.csv")


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"nodes": 1}, "--nodes"),
        ({"level": Level.TRAINING, "nodes": 65}, "--nodes"),
        ({"churn_per_minute": -1.0}, "--churn"),
        ({"hostile_ratio": 0.95}, "--hostile"),
        ({"network": "moon"}, "--network"),
        ({"partitions": (Partition(0.3, 60.0, 30.0),)}, "--partition"),
        ({"partitions": (Partition(0.3, 0.0, 60.0), Partition(0.3, 30.0, 90.0))}, "--partition"),
    ],
)
def test_what_cannot_be_simulated_is_said_in_the_command_s_words(changes: dict[str, object], option: str) -> None:
    """Each message begins with the option."""
    with pytest.raises(ConfigError, match=f"^{option}"):
        Scenario(**changes).check()  # type: ignore[arg-type]


def test_manifests_are_made_for_the_level_and_changed_by_keys(tmp_path: Path) -> None:
    """Vectors meet every 30 steps, a model's schedule is as long as the run, and --set beats both."""
    consensus = plan_manifest(Level.CONSENSUS, None, ["meeting.clip_ratio=0"], steps=100, seed=3)
    training = plan_manifest(Level.TRAINING, None, [], steps=100, seed=3)

    assert consensus.meeting.params_every_steps == 30
    assert consensus.meeting.clip_ratio == 0
    assert consensus.seed == 3
    assert training.training.total_steps == 100
    with pytest.raises(ConfigError, match=r"did you mean meeting\.clip_ratio"):
        plan_manifest(Level.CONSENSUS, None, ["meeting.clip_rati=0"], steps=100, seed=0)
