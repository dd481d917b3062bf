"""Trials of a few steps on a few kilobytes of text."""

from dataclasses import replace
from pathlib import Path

from lowcomm_node.bench.methods import METHODS, Family, Overrides
from lowcomm_node.bench.trial import Shards, Speeds, Trial, make_manifest
from tests.train.pairs import write_text

TINY: Overrides = {
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.d_model": 16,
    "model.d_ff": 32,
    "model.context_length": 16,
    "training.batch_size": 2,
    "training.total_steps": 6,
    "training.warmup_steps": 1,
    "meeting.budget_bytes": 4096,
    "meeting.params_every_steps": 2,
}


def text_in(folder: Path) -> tuple[str, ...]:
    """Data paths of a small text in ten files."""
    texts = folder / "texts"
    if not texts.exists():
        texts.mkdir()
        write_text(texts)
    return (str(texts),)


def tiny_trial(
    data_paths: tuple[str, ...],
    name: str = "meet",
    *overrides: Overrides,
    seed: int = 0,
    replicas: int = 4,
    shards: Shards = Shards.IID,
    speeds: Speeds = Speeds.EQUAL,
    delay_steps: float = 0.1,
) -> Trial:
    """A known method, its periods shortened so that something happens in six steps."""
    method = METHODS[name]
    short: dict[str, object] = {}
    if method.family is Family.AVERAGE:
        periods = {key: value for key, value in method.overrides.items() if key.startswith("meeting.")}
        short = {key: 2 if value else 0 for key, value in periods.items()}
    elif method.family in {Family.DILOCO, Family.NOLOCO}:
        short = {"outer.every_steps": 3}
    scheme = replace(
        method.ab_training, epochs=2, rebound_ratio=1 / 6, group_size=min(2, method.ab_training.group_size)
    )
    return Trial(
        label=name,
        family=method.family,
        manifest=make_manifest(method.overrides, TINY, short, *overrides, seed=seed),
        replicas=replicas,
        shards=shards,
        speeds=speeds,
        delay_steps=delay_steps,
        data_paths=data_paths,
        ab_training=scheme,
    )
