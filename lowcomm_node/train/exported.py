"""A model that was taken out of a run: a folder with its weights, the run's manifest, its tokenizer and a card.

A model of transformers lies there as transformers keeps its own, with its ``config.json``.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowcomm_node.algo.consensus import RunningMean
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.errors import StoreError
from lowcomm_node.settings.canonical import canonical_bytes, manifest_from_canonical, run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.fingerprint import fingerprint_of
from lowcomm_node.train.messages import StateLoaded
from lowcomm_node.train.model import build_model, load_parameters
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.state_file import Counters, TrainingState, read_state, state_bytes_bound
from lowcomm_node.units import PeerId, RunId

__all__ = ["TOKENIZER_FILE", "Consensus", "Exported", "Taken", "read_exported", "read_parameters", "write_exported"]

WEIGHTS_FILE = "model.safetensors"
MANIFEST_FILE = "run.json"
CARD_FILE = "README.md"
TOKENIZER_FILE = "tokenizer.json"
_PARAMS = "params/"
_MAX_MANIFEST_BYTES = 1 << 20


Parameters = Mapping[str, Tensor]
"""By name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One node whose state is part of the mean."""

    peer: PeerId
    counters: Counters
    judged: float | None
    """Its loss on held-out data, in nats per token; None where nobody has looked."""


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
    return _parameters_of(state), state.counters


def _parameters_of(state: TrainingState) -> dict[str, Tensor]:
    return {key.removeprefix(_PARAMS): t for key, t in state.tensors.items() if key.startswith(_PARAMS)}


class Consensus:
    """The mean of nodes' models, from state files that are looked at one after the other.

    Memory: the sum of the parameters in fp64, and one state; a ``judge``'s model besides. Raises ConfigError for a model that cannot
    be built here.

    Args:
        manifest, run: whose states they must be.
        judge: the loss of a model with these parameters, or None.
    """

    def __init__(
        self, manifest: Manifest, run: RunId, judge: Callable[[Parameters], float | None] = lambda _parameters: None
    ) -> None:
        self._run = run
        self._judge = judge
        replica = Replica(manifest, torch.device("cpu"))
        self._layout = replica.layout()
        self.max_bytes = state_bytes_bound(self._layout)
        self.initial_sketch = fingerprint_of(replica.state()).sketch
        self._looked_at: tuple[Path, TrainingState] | None = None
        self._mean = RunningMean()
        self.taken: list[Taken] = []

    def look(self, path: Path) -> Fingerprint:
        """Read and check a state file: run, names, shapes, finite. Raises StoreError."""
        self._looked_at = None  # of two only one is held
        state = read_state(path, self._run, self._layout)
        self._looked_at = path, state
        return fingerprint_of(state)

    def take(self, path: Path, peer: PeerId) -> StateLoaded:
        """Add the state in this file, which is this node's, and forget all of it but what it adds to. Raises StoreError."""
        if self._looked_at is None or self._looked_at[0] != path:
            self._looked_at = None
            self._looked_at = path, read_state(path, self._run, self._layout)
        state, self._looked_at = self._looked_at[1], None
        parameters = _parameters_of(state)
        judged = self._judge(parameters)
        self._mean.add(parameters)
        counters = state.counters
        self.taken.append(Taken(peer=peer, counters=counters, judged=judged))
        return StateLoaded(progress_steps=counters.progress_steps, steps=counters.steps, tokens=counters.tokens)

    def parameters(self) -> dict[str, Tensor]:
        """The mean. Raises ValueError before the first state."""
        return self._mean.mean()

    @property
    def spread(self) -> float:
        """Root mean square distance of the nodes' parameters from the mean, per parameter."""
        return self._mean.spread


def write_exported(
    folder: Path, manifest: Manifest, parameters: Parameters, card: str, tokenizer: Path | None = None
) -> None:
    """Make ``folder`` with a model of these parameters, or leave nothing. Raises ConfigError and StoreError."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    model = build_model(manifest)
    load_parameters(model, parameters)
    try:
        unfinished.mkdir(parents=True)
        if manifest.model.kind == "transformers":
            keep: Any = model
            keep.save_pretrained(unfinished)
        else:
            own = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
            save_file(own, unfinished / WEIGHTS_FILE, {"format": "pt"})
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
