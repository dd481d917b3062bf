"""From what a researcher asks to the list of trials: methods x grid x seeds."""

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lowcomm_node.bench.methods import Family, Method, Overrides, find_methods, optimizer_overrides
from lowcomm_node.bench.trial import (
    FULL,
    SMALL,
    Laboratory,
    Shards,
    Speeds,
    Trial,
    make_laboratory,
    make_manifest,
)
from lowcomm_node.core.ab_stages import Stage, stage_at
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.ab_training import AbReferenceConfig, AbTrainingConfig
from lowcomm_node.settings.load import read_manifest, read_toml
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.schema import Key, keys_of, nearest

__all__ = ["CheckpointRequest", "CodecRequest", "Request", "plan_codecs", "plan_trials"]

_MAX_REPLICAS = 256
_MAX_SEEDS = 1000
_SMALL_REPLICAS = 8
_FULL_REPLICAS = 16
_MAX_STATE_MIB = 1_000_000
_TRIED_SECTIONS = ("optimizer", "outer", "meeting", "ab_training")
"""What of a manifest file makes a method; model and schedule are those of the comparison."""
_IN_FACTORS = ("adamw", "adopt", "mtdao", "sgd")
"""Optimizers that AB-training takes: they treat all tensors alike. Muon's and Dion's updates would depend on how A and B share W."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The command line of one comparison."""

    only: Sequence[str] = ()
    """Names of methods; empty is the default selection."""
    seeds: int = 1
    steps: int | None = None
    """Length of the schedule."""
    replicas: int | None = None
    shards: Shards = Shards.IID
    speeds: Speeds = Speeds.EQUAL
    delay_steps: float = 0.1
    is_full: bool = False
    sets: Sequence[str] = ()
    """``key=value``: one more run of our meetings with all of these."""
    manifest: Path | None = None
    """One more run of our meetings with this file's optimizer, outer, meeting and ab_training sections."""
    grid: Sequence[str] = ()
    """``key=value,value``: each method with each combination."""
    data: tuple[str, ...] = ()
    task: str = ""
    """Trains this task in place of the language model."""
    options: Sequence[str] = ()
    """``key=value``: of its table [model.config]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecRequest:
    """The command line of one measurement of codecs."""

    optimizer: str = "adamw"
    """Kind, with its preset."""
    every_steps: int = 10
    """Own steps between two meetings."""
    meetings: int = 24
    burn_in_steps: int = 100
    """Before the first of them; replicas agree after each."""
    seed: int = 0
    is_full: bool = False
    data: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRequest:
    """The command line of one measurement of checkpoints."""

    mib: Sequence[float] = (64.0, 512.0)
    """Sizes of the states."""
    writes: int = 4
    """Checkpoints of each; the first takes the memory for the copy."""
    device: str = "auto"
    threads: int = 0
    """Of torch; 0 is torch's own choice."""

    def check(self) -> None:
        """Raises ConfigError naming the option and what it allows."""
        for mib in self.mib:
            if not 1 <= mib <= _MAX_STATE_MIB:
                raise ConfigError(f"--mib {mib:g} is not allowed; allowed: 1 to {_MAX_STATE_MIB}, several with commas")
        _check_range("--writes", self.writes, 2, 1000)
        _check_range("--threads", self.threads, 0, 1024)


def plan_codecs(request: CodecRequest) -> Trial:
    """Whose differences are measured. Raises ConfigError naming the option and what it allows."""
    _check_range("--every", request.every_steps, 1, 100_000)
    _check_range("--burn-in", request.burn_in_steps, 0, 1_000_000)
    _check_range("--meetings", request.meetings, 5, 100_000)
    base = FULL if request.is_full else SMALL
    steps = request.burn_in_steps + request.every_steps * request.meetings
    length = max(make_manifest(base).training.total_steps, 2 * steps)  # so that the learning rate stays near its peak
    overrides = optimizer_overrides(request.optimizer)
    manifest = make_manifest(base, overrides, {"training.total_steps": length}, seed=request.seed)
    return Trial(label=request.optimizer, family=Family.MEETINGS, manifest=manifest, data_paths=request.data)


def plan_trials(request: Request) -> list[Trial]:
    """All trials, those of one method together. Raises ConfigError naming the option and what it allows."""
    default = _FULL_REPLICAS if request.is_full else _SMALL_REPLICAS
    replicas = default if request.replicas is None else request.replicas
    _check_range("--replicas", replicas, 2, _MAX_REPLICAS)
    _check_range("--seeds", request.seeds, 1, _MAX_SEEDS)
    if not 0 <= request.delay_steps <= 1000:
        raise ConfigError(f"--delay {request.delay_steps} is not allowed; allowed: 0 to 1000 steps")
    base = _base(request)
    trials = []
    for method in _methods(request):
        for point in _grid(request.grid):
            label = " ".join([method.name, *(f"{_last(key)}={value}" for key, value in point.items())])
            of_manifest = _of_manifest(method, point)
            of_laboratory = {key: value for key, value in point.items() if key not in of_manifest}
            laboratory = make_laboratory(Laboratory(ab_training=method.ab_training), of_laboratory, label)
            manifest = make_manifest(base, method.overrides, of_manifest, source=label)
            if method.family is Family.AB_TRAINING:
                _check_ab_training(laboratory.ab_training, manifest, replicas, label)
            elif manifest.outer.method == "ab":
                _check_epochs(manifest.ab_training, manifest, label)
            trials += [
                Trial(
                    label=label,
                    family=method.family,
                    manifest=replace(manifest, seed=seed),
                    replicas=replicas,
                    shards=request.shards,
                    speeds=request.speeds,
                    delay_steps=request.delay_steps,
                    data_paths=request.data,
                    ab_training=laboratory.ab_training,
                )
                for seed in range(request.seeds)
            ]
    return trials


def _of_manifest(method: Method, point: Overrides) -> Overrides:
    """What of a point of the grid is the manifest's: of ab_training, only where the swarm itself is to train so."""
    is_swarm_form = {**method.overrides, **point}.get("outer.method") == "ab"
    known = keys_of(Manifest)
    return {
        key: value for key, value in point.items() if key in known and (is_swarm_form or key not in keys_of(Laboratory))
    }


def _check_ab_training(config: AbReferenceConfig, manifest: Manifest, replicas: int, label: str) -> None:
    """What the number of replicas, the length of the run and the optimizer have to do with it."""
    if config.group_size >= replicas:
        raise ConfigError(
            f"{label}: ab_training.group_size = {config.group_size} is not allowed; allowed: less than the {replicas} replicas, "
            "for some train A and some B"
        )
    if manifest.optimizer.kind not in _IN_FACTORS:
        raise ConfigError(
            f"{label}: optimizer.kind = {manifest.optimizer.kind!r} is not allowed; allowed: {', '.join(_IN_FACTORS)}"
        )
    _check_epochs(config, manifest, label)


def _check_epochs(config: AbTrainingConfig, manifest: Manifest, label: str) -> None:
    """Every epoch needs a step in which factors are trained."""
    total_steps = manifest.training.total_steps
    points = [stage_at(step, total_steps, config) for step in range(total_steps)]
    epochs = len({point.epoch for point in points if point.stage is Stage.FACTORS})
    if config.warm_up_ratio < 1 and epochs < config.epochs:
        raise ConfigError(
            f"{label}: ab_training.epochs = {config.epochs} is not allowed; in {total_steps} steps only {epochs} of them have a "
            "step in which factors are trained"
        )


def _base(request: Request) -> Overrides:
    size = FULL if request.is_full else SMALL
    if request.task:
        size = _task(request)
    elif request.options:
        raise ConfigError("--option is for the options of a task; name one with --task")
    if request.steps is None:
        return size
    default = make_manifest(size).training
    _check_range("--steps", request.steps, 1, 1_000_000)
    # A short schedule keeps the shape of the default one, which warms up for no more than a quarter.
    return {
        **size,
        "training.total_steps": request.steps,
        "training.warmup_steps": min(default.warmup_steps, request.steps // 4),
    }


def _task(request: Request) -> Overrides:
    """What fits the task, with the options that are asked for."""
    from lowcomm_node.train.foreign import sized  # noqa: PLC0415 - imports torch, as little else here does
    from lowcomm_node.train.tasks import find_task, manifest_of  # noqa: PLC0415

    fitting = manifest_of(find_task(request.task))
    overrides: dict[str, object] = {
        f"{section}.{name}": value for section, values in fitting.items() for name, value in values.items()
    }
    options: dict[str, object] = {}
    for text in request.options:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--option {text}: write it as --option key=value, e.g. --option width=32")
        try:
            options |= tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            options[key.strip()] = value.strip()  # the task's own check says what is allowed
    overrides |= {"model.kind": "task", "model.task": request.task, "model.config": options, "model.parameters": 1}
    return overrides | {"model.parameters": sized(make_manifest(overrides)).model.parameters}


def _methods(request: Request) -> list[Method]:
    methods = find_methods(request.only)
    overrides: dict[str, object] = {}
    words = ["meet"]
    if request.manifest is not None:
        overrides |= _sections_of(request.manifest)
        words.append(request.manifest.stem)
    for text in request.sets:
        key, value = _split("--set", text, keys_of(Manifest))
        overrides[key] = _value(keys_of(Manifest)[key], value)
        words.append(f"{_last(key)}={value}")
    if overrides:
        name = " ".join(words)
        methods.append(Method(name=name, family=Family.MEETINGS, about="as asked for", overrides=overrides))
    return methods


def _sections_of(path: Path) -> Overrides:
    read_manifest(path)  # for its errors
    table = read_toml(path)
    found: dict[str, object] = {}
    for section in _TRIED_SECTIONS:
        values = table.get(section, {})
        if isinstance(values, Mapping):
            found |= {f"{section}.{name}": value for name, value in values.items()}
    return found


def _grid(texts: Sequence[str]) -> list[Overrides]:
    """All combinations; one empty one without a grid."""
    axes = []
    for text in texts:
        known = {**keys_of(Manifest), **keys_of(Laboratory)}
        key, values = _split("--grid", text, known)
        axes.append([(key, _value(known[key], value.strip())) for value in values.split(",")])
    return [dict(combination) for combination in itertools.product(*axes)]


def _split(option: str, text: str, known: Mapping[str, Key]) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not value.strip():
        raise ConfigError(f"{option} {text}: write it as {option} section.key=value, e.g. {option} optimizer.lr=0.003")
    if key not in known:
        close = nearest(key, known)
        raise ConfigError(f"{option} {text}: no key is named {key}" + (f"; did you mean {close}?" if close else ""))
    if key in {"seed", "name", "protocol_version"}:
        raise ConfigError(f"{option} {text}: {key} is the laboratory's own; seeds are numbered by --seeds")
    return key, value.strip()


def _value(key: Key, text: str) -> object:
    if key.type is str:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # the manifest's own check says what is allowed


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _check_range(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{option} {value} is not allowed; allowed: {low} to {high}")
