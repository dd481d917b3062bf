"""What defines a run, and results as JSON."""

import dataclasses
import json
import math

import pytest

from lowcomm_node.bench.methods import METHODS
from lowcomm_node.bench.trial import (
    FULL,
    SMALL,
    Point,
    Result,
    Shards,
    Speeds,
    Trial,
    make_manifest,
    result_from,
    result_to,
)
from lowcomm_node.errors import ConfigError
from tests.bench.tiny import tiny_trial

_TRIAL = tiny_trial(("texts",))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_manifest(name: str) -> None:
    """Whatever --list names can be run, small and full."""
    for size in (SMALL, FULL):
        tree = dataclasses.asdict(make_manifest(size, METHODS[name].overrides, source=name))
        for key, value in METHODS[name].overrides.items():
            section, _, field = key.partition(".")
            assert tree[section][field] == value


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(_TRIAL, manifest=dataclasses.replace(_TRIAL.manifest, seed=1)),
        tiny_trial(("texts",), "meet-dense-k2"),
        dataclasses.replace(_TRIAL, replicas=5),
        dataclasses.replace(_TRIAL, shards=Shards.BY_FILE),
        dataclasses.replace(_TRIAL, speeds=Speeds.UNEQUAL),
        dataclasses.replace(_TRIAL, delay_steps=1.0),
        dataclasses.replace(_TRIAL, data_paths=()),
        tiny_trial(("texts",), "local"),
    ],
    ids=["seed", "method", "replicas", "shards", "speeds", "delay", "data", "family"],
)
def test_the_key_knows_everything_that_matters(changed: Trial) -> None:
    """A stored result is never taken for that of another run."""
    assert changed.key != _TRIAL.key


def test_what_does_not_matter_is_not_in_the_key() -> None:
    """The same run under two names is one run; lockstep knows no message delay."""
    local = tiny_trial(("texts",), "local")

    assert dataclasses.replace(_TRIAL, label="another").key == _TRIAL.key
    assert dataclasses.replace(local, delay_steps=3.0).key == local.key


def test_replicas_differ_in_speed_by_eight() -> None:
    """From 1 to 1/8, each by the same factor slower than the one before."""
    speeds = tiny_trial((), speeds=Speeds.UNEQUAL, replicas=4).replica_speeds

    assert speeds == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8])
    assert tiny_trial(()).replica_speeds == (1.0,) * 4


def test_results_come_back_from_strict_json() -> None:
    """Numbers that are not finite are null in the file, and numbers again afterwards."""
    point = Point(tokens=8, bytes_per_node=1.5, loss=math.nan, loss_averaged=2.0, spread=0.1, learning_rate=1e-3)
    result = Result(
        loss=1.0,
        loss_averaged=2.0,
        spread=0.5,
        bytes_per_node=7.0,
        tokens=64,
        duration_steps=6.0,
        seconds=0.1,
        nonfinite_steps=0,
        parameters=10,
        failures={"busy": 2},
        curve=(point,),
    )

    text = json.dumps(result_to(result), allow_nan=False)
    back = result_from(json.loads(text))

    assert math.isnan(back.captured_ratio)
    assert math.isnan(back.curve[0].loss)
    assert result_to(back) == result_to(result)
    assert dataclasses.replace(back, captured_ratio=0, curve=()) == dataclasses.replace(
        result, captured_ratio=0, curve=()
    )


def test_a_manifest_names_its_bad_keys() -> None:
    """A typing error in a sweep is told with the method it came with."""
    with pytest.raises(ConfigError, match=r"ab: optimizer\.lr"):
        make_manifest(SMALL, {"optimizer.lr": "fast"}, source="ab")


def test_one_replica_is_no_comparison() -> None:
    """Exchanges need two."""
    with pytest.raises(ValueError, match="two replicas"):
        dataclasses.replace(_TRIAL, replicas=1)
