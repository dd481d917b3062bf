"""A model that was taken out of a run: a folder with its weights, the run's manifest, its tokenizer and a card.

A model of transformers lies there as transformers keeps its own, with its ``config.json``.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowcomm_node.algo.consensus import mean_state
from lowcomm_node.errors import StoreError
from lowcomm_node.settings.canonical import canonical_bytes, manifest_from_canonical, run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.model import build_model, load_parameters
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.state_file import Counters, read_state
from lowcomm_node.units import PeerId, RunId

__all__ = ["TOKENIZER_FILE", "Exported", "Member", "member_of", "read_exported", "read_parameters", "write_exported"]

WEIGHTS_FILE = "model.safetensors"
MANIFEST_FILE = "run.json"
CARD_FILE = "README.md"
TOKENIZER_FILE = "tokenizer.json"
_PARAMS = "params/"
_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One node's newest checkpoint."""

    peer: PeerId
    parameters: Mapping[str, Tensor]
    counters: Counters


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What stands in such a folder."""

    manifest: Manifest
    run_id: RunId
    model: nn.Module
    """On the CPU, in float32, not training."""
    tokenizer: Path | None
    """The run's tokenizer.json; None where tokens are bytes, or were not made of text here."""


def read_parameters(path: Path, manifest: Manifest, run: RunId) -> tuple[dict[str, Tensor], Counters]:
    """The parameters in a state file, by name, and where its node stood. Raises StoreError."""
    state = read_state(path, run, Replica(manifest, torch.device("cpu")).layout())
    found = {key.removeprefix(_PARAMS): t for key, t in state.tensors.items() if key.startswith(_PARAMS)}
    return found, state.counters


def member_of(path: Path, peer: PeerId, manifest: Manifest, run: RunId) -> Member:
    """A node's state file as one of those that a model is the mean of. Raises StoreError."""
    parameters, counters = read_parameters(path, manifest, run)
    return Member(peer=peer, parameters=parameters, counters=counters)


def write_exported(
    folder: Path, manifest: Manifest, members: Sequence[Member], card: str, tokenizer: Path | None = None
) -> None:
    """Make ``folder`` with the mean of the members' models, or leave nothing. Raises ConfigError and StoreError."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    model = build_model(manifest)
    load_parameters(model, mean_state([member.parameters for member in members]))
    try:
        unfinished.mkdir(parents=True)
        if manifest.model.kind == "transformers":
            keep: Any = model
            keep.save_pretrained(unfinished)
        else:
            parameters = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
            save_file(parameters, unfinished / WEIGHTS_FILE, {"format": "pt"})
        (unfinished / MANIFEST_FILE).write_bytes(canonical_bytes(manifest))
        (unfinished / CARD_FILE).write_text(card)
        if tokenizer is not None:
            shutil.copyfile(tokenizer, unfinished / TOKENIZER_FILE)
        (unfinished / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it its owner's alone, but it is for others
        unfinished.rename(folder)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{folder}: the model cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read_exported(folder: Path) -> Exported:
    """Raises ConfigError for a model that cannot be built here, StoreError for a folder that is none or damaged."""
    try:
        with (folder / MANIFEST_FILE).open("rb") as file:
            canonical = file.read(_MAX_MANIFEST_BYTES + 1)
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{folder}: not a model that lowcomm-node export has written: {error}") from error
    manifest = manifest_from_canonical(canonical, _MAX_MANIFEST_BYTES, str(folder / MANIFEST_FILE))
    model = build_model(manifest)
    names = dict(model.named_parameters())
    try:
        # Models of transformers keep buffers beside their parameters, and every name of a tied one.
        load_parameters(model, {name: tensor for name, tensor in tensors.items() if name in names})
    except (RuntimeError, ValueError) as error:
        raise StoreError(
            f"{folder / WEIGHTS_FILE}: these are not the weights of its {MANIFEST_FILE}: {error}"
        ) from error
    tokenizer = folder / TOKENIZER_FILE
    return Exported(
        manifest=manifest,
        run_id=run_id(manifest),
        model=model.eval(),
        tokenizer=tokenizer if tokenizer.is_file() else None,
    )
