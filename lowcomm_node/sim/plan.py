"""The manifest of a simulated run, from a file or made up, with single keys changed."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.load import build, read_manifest, read_toml
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.schema import keys_of, nearest
from lowcomm_node.sim.scenario import Level

__all__ = ["plan_manifest"]

_CONSENSUS: Mapping[str, object] = {"meeting.params_every_steps": 30}
"""Vectors have no model that learns, and so no reason to meet every few seconds."""
_TRAINING: Mapping[str, object] = {
    "model.num_layers": 2,
    "model.d_model": 64,
    "model.d_ff": 168,
    "model.context_length": 64,
    "training.batch_size": 4,
}
"""0.13 M parameters: some milliseconds a step."""


def plan_manifest(level: Level, path: Path | None, sets: Sequence[str], *, steps: int, seed: int) -> Manifest:
    """A file's manifest, or one for the level whose schedule is ``steps`` long, with each KEY=VALUE of ``sets`` put in.

    Raises ConfigError, OSError.
    """
    tree: dict[str, object] = {"name": "simulation", "seed": seed}
    if path is not None:
        read_manifest(path)  # for its errors
        tree = dict(read_toml(path))
    else:
        base = _TRAINING if level is Level.TRAINING else _CONSENSUS
        length = {"training.total_steps": max(2, steps), "training.warmup_steps": min(50, max(2, steps) // 4)}
        for dotted, value in {**base, **(length if level is Level.TRAINING else {})}.items():
            _put(tree, dotted, value)
    for text in sets:
        key, equals, value = text.partition("=")
        known = keys_of(Manifest)
        if not equals or key.strip() not in known:
            close = nearest(key.strip(), known)
            hint = f"; did you mean {close}?" if close else ""
            raise ConfigError(f"--set {text}: write it as --set section.key=value with a manifest's key{hint}")
        _put(tree, key.strip(), _value(known[key.strip()].type, value.strip()))
    return build(Manifest, tree, str(path) if path is not None else "--set")


def _put(tree: dict[str, object], dotted: str, value: object) -> None:
    section, _, name = dotted.rpartition(".")
    table = tree.setdefault(section, {}) if section else tree
    if isinstance(table, dict):
        table[name] = value


def _value(kind: object, text: str) -> object:
    if kind is str:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # the manifest's own check says what is allowed
