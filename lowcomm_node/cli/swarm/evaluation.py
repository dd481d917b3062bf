"""How good the nodes' last states are, one by one and averaged, on one larger held-out set."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lowcomm_node.algo.consensus import mean_state, spread
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.paths import resolve_state_dir
from lowcomm_node.train.evaluate import Look, look_at, loss_of
from lowcomm_node.train.exported import read_parameters
from lowcomm_node.train.held_out import held_out_batches
from lowcomm_node.train.model import build_model, load_parameters
from lowcomm_node.train.session import choose_device
from lowcomm_node.units import RunId

__all__ = ["Evaluation", "Judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Validation losses in nats per token; accuracies are None where the run's task does not say."""

    loss_start: float
    """Of the initial model."""
    losses: dict[str, float] = field(default_factory=dict)
    """By node."""
    loss_consensus: float | None = None
    """Of the model averaged over the nodes; None without nodes."""
    accuracy_mean: float | None = None
    """Mean over the nodes."""
    accuracy_consensus: float | None = None
    """As ``loss_consensus``."""
    spread: float | None = None
    """Root mean square distance of the nodes' parameters from their mean."""

    @property
    def loss_mean(self) -> float | None:
        """Mean over the nodes."""
        return sum(self.losses.values()) / len(self.losses) if self.losses else None


class Judge:
    """Measures states of one run on the same windows of held-out text."""

    def __init__(self, manifest: Manifest, run_id: RunId, settings: NodeSettings) -> None:
        """Load the text the nodes hold out. Raises DataError."""
        # More threads than free cores make small models slower by an order of magnitude: torch spins at each barrier.
        torch.set_num_threads(settings.device.threads)
        self._manifest = manifest
        self._run_id = run_id
        state_dir = resolve_state_dir(settings.state_dir, os.environ)
        self._windows = held_out_batches(manifest, settings.data, state_dir, run_id)
        self._loss_function = loss_of(manifest)
        self._device = choose_device(settings.device)

    def evaluate(self, states: Mapping[str, Path], on_progress: Callable[[float], bool]) -> Evaluation:
        """Losses of the initial model, of each node's state file, and of the states' average.

        ``on_progress`` is told the share done and returns False to end early; what is missing then stays None.
        Raises StoreError for a file that cannot be trusted.
        """
        count = len(states) + 2
        loss_start = self._look(None).loss
        losses: dict[str, float] = {}
        accuracies: list[float] = []
        params: list[Mapping[str, Tensor]] = []
        for done, (name, path) in enumerate(states.items(), start=1):
            if not on_progress(done / count):
                return Evaluation(loss_start=loss_start, losses=losses)
            params.append(self.params_of(path))
            look = self._look(params[-1])
            losses[name] = look.loss
            accuracies.append(look.accuracy)
        if not params or not on_progress((count - 1) / count):
            return Evaluation(loss_start=loss_start, losses=losses)
        consensus = self._look(mean_state(params))
        on_progress(1.0)
        return Evaluation(
            loss_start=loss_start,
            losses=losses,
            loss_consensus=consensus.loss,
            accuracy_mean=_known(sum(accuracies) / len(accuracies)),
            accuracy_consensus=_known(consensus.accuracy),
            spread=spread(params),
        )

    def loss_of(self, path: Path) -> float:
        """Validation loss of one state file. Raises StoreError."""
        return self._look(self.params_of(path)).loss

    def params_of(self, path: Path) -> dict[str, Tensor]:
        """The parameters in a state file, by name. Raises StoreError."""
        return read_parameters(path, self._manifest, self._run_id)[0]

    def _look(self, params: Mapping[str, Tensor] | None) -> Look:
        model = build_model(self._manifest)
        if params is not None:
            load_parameters(model, params)
        return look_at(model.to(self._device), self._windows, self._loss_function)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
