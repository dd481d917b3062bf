"""One run of the laboratory: everything that defines it, and everything it found."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from lowcomm_node.bench.methods import Family, Overrides
from lowcomm_node.settings.ab_training import AbReferenceConfig
from lowcomm_node.settings.canonical import canonical_bytes
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest

__all__ = [
    "FULL", "SMALL", "Laboratory", "Point", "Result", "Shards", "Speeds", "Trial", "make_laboratory", "make_manifest",
    "result_from", "result_to", "strict",
]  # fmt: skip

_FORMAT = 1
"""Raised when the meaning of a result changes, so that old files are not taken for new ones."""

_SLOWEST = 1 / 8

SMALL: Overrides = {
    "model.num_layers": 2,
    "model.num_heads": 4,
    "model.d_model": 64,
    "model.d_ff": 168,
    "model.context_length": 64,
    "training.batch_size": 4,
    "training.total_steps": 800,
    "training.warmup_steps": 50,
}
"""0.13 M parameters: under a minute a run on one core."""
FULL: Overrides = {}
"""A new manifest's own model and length."""


class Shards(StrEnum):
    """Who trains on what."""

    IID = "iid"
    """Windows from all training text."""
    BY_FILE = "by-file"
    """Each replica has its own slice of the text, in the order of file names."""


class Speeds(StrEnum):
    """How fast replicas are."""

    EQUAL = "equal"
    UNEQUAL = "unequal"
    """Geometric from 1 to 1/8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Laboratory:
    """Settings of methods that are the laboratory's alone; --grid takes their keys beside a manifest's."""

    ab_training: AbReferenceConfig = field(default_factory=AbReferenceConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One method with one seed."""

    label: str
    """What tables call it; the only part that does not define the run."""
    family: Family
    manifest: Manifest
    """Its seed is the trial's: initial weights, data order, partners."""
    replicas: int = 8
    shards: Shards = Shards.IID
    speeds: Speeds = Speeds.EQUAL
    delay_steps: float = 0.1
    """What a message of a meeting travels, in steps of the fastest replica."""
    data_paths: tuple[str, ...] = ()
    """Text to train on; empty is the default corpus."""
    ab_training: AbReferenceConfig = field(default_factory=AbReferenceConfig)
    """Of that family; means nothing to the others."""

    def __post_init__(self) -> None:
        if self.replicas < 2:
            raise ValueError("a comparison of exchanges takes at least two replicas")
        if self.family is Family.AB_TRAINING and self.replicas <= self.ab_training.group_size:
            raise ValueError("AB-training takes a group for each factor")

    @property
    def seed(self) -> int:
        """Of initial weights, data order and partners."""
        return self.manifest.seed

    @property
    def replica_speeds(self) -> tuple[float, ...]:
        """Steps per unit of time of each replica; the fastest has 1."""
        slowest = 1.0 if self.speeds is Speeds.EQUAL else _SLOWEST
        return tuple(slowest ** (index / (self.replicas - 1)) for index in range(self.replicas))

    @property
    def key(self) -> str:
        """Name of the result's file: a hash of all that defines the run, the code apart. Changed code wants another folder."""
        definition = {
            "format": _FORMAT,
            "family": self.family,
            "manifest": canonical_bytes(self.manifest).decode(),
            "replicas": self.replicas,
            "shards": self.shards,
            "speeds": self.speeds,
            # Only meetings have messages that travel while training goes on.
            "delay_steps": 0 if self.family.is_lockstep else self.delay_steps,
            "data_paths": self.data_paths,
        }
        if self.family is Family.AB_TRAINING:
            definition["ab_training"] = asdict(self.ab_training)
        return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One look at the replicas during a run."""

    tokens: int
    """Trained on by all replicas together."""
    bytes_per_node: float
    """Sent until now, mean over nodes."""
    loss: float
    """Validation loss, mean over replicas, nats per token; on fewer windows than the result's."""
    loss_averaged: float
    """Of the averaged model."""
    spread: float
    """Root mean square distance of the replicas from their mean, per parameter."""
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run found. Losses in nats per token on held-out text."""

    loss: float
    """Mean over replicas at the end."""
    loss_averaged: float
    """Of the averaged model."""
    spread: float
    bytes_per_node: float
    """Payload bytes sent, mean over nodes."""
    tokens: int
    """Trained on by all replicas together."""
    duration_steps: float
    """Simulated length in steps of the fastest replica: where replicas wait for the slowest, this is what it costs."""
    seconds: float
    """What the laboratory took."""
    nonfinite_steps: int
    parameters: int
    meetings: int = 0
    """Completed, counted once each."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Meetings that were not completed, by reason."""
    captured_ratio: float = math.nan
    """Share of a difference's energy that a meeting takes away, mean over meetings of the parameters; NaN without meetings."""
    bytes_by_part: Mapping[str, float] = field(default_factory=dict)
    """Of ``bytes_per_node``, where a method sends by turns different things."""
    rank_ratio: float = 1.0
    """Share of the rank that matrices have kept, mean over them, after the last split of AB-training."""
    accuracy: float = math.nan
    """Share of held-out examples answered right, mean over replicas; NaN where that has no meaning, as for text."""
    accuracy_averaged: float = math.nan
    """Of the averaged model."""
    curve: tuple[Point, ...] = ()


def make_manifest(base: Overrides, *overrides: Overrides, seed: int = 0, source: str = "bench") -> Manifest:
    """A manifest from dotted keys, later ones win. Raises ConfigError that names ``source`` and each bad key."""
    tree: dict[str, object] = {"name": "bench", "seed": seed}
    for values in (base, *overrides):
        for dotted, value in values.items():
            section, _, name = dotted.rpartition(".")
            table = tree.setdefault(section, {}) if section else tree
            if isinstance(table, dict):
                table[name] = value
    return build(Manifest, tree, source)


def make_laboratory(base: Laboratory, overrides: Overrides, source: str) -> Laboratory:
    """``base`` with some dotted keys set. Raises ConfigError that names ``source`` and each bad key."""
    tree = {section: dict(values) for section, values in asdict(base).items()}
    for dotted, value in overrides.items():
        section, _, name = dotted.rpartition(".")
        tree.setdefault(section, {})[name] = value
    return build(Laboratory, tree, source)


def result_to(result: Result) -> dict[str, object]:
    """As plain JSON values; what is not finite becomes null."""
    plain: dict[str, object] = strict(asdict(result))  # type: ignore[assignment]  # a mapping stays one
    return plain


def result_from(plain: Mapping[str, object]) -> Result:
    """The result that ``result_to`` wrote. Raises ValueError or TypeError when it did not."""
    values = _finite_or_nan(plain)
    curve = values.pop("curve")
    if not isinstance(curve, list):
        raise TypeError("a result without curve")
    points = tuple(Point(**_finite_or_nan(point)) for point in curve)
    return Result(**values, curve=points)


def _finite_or_nan(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in plain.items()}


def strict(value: object) -> object:
    """Plain values with null in place of numbers that are not finite, and lists in place of tuples."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {name: strict(part) for name, part in value.items()}
        case list() | tuple():
            return [strict(part) for part in value]
        case _:
            return value
