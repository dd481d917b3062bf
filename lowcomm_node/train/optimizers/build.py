"""From the manifest's words to the inner optimizer of a model."""

import hashlib
from collections.abc import Sequence

from torch import nn

from lowcomm_node.algo.group import ALONE, Group
from lowcomm_node.settings.manifest import Manifest, OptimizerConfig
from lowcomm_node.settings.streams import Scope, StateStream, state_streams
from lowcomm_node.train.model import matrices_of, output_head
from lowcomm_node.train.optimizers.adamw import AdamW
from lowcomm_node.train.optimizers.base import InnerOptimizer
from lowcomm_node.train.optimizers.composite import Composite
from lowcomm_node.train.optimizers.dion import DionOptimizer
from lowcomm_node.train.optimizers.foreach import Adopt, Lion, MtDao
from lowcomm_node.train.optimizers.momentum import Muon, Sgd

__all__ = ["build_optimizer"]

_WHOLE_MODEL: dict[str, type[AdamW | Adopt | MtDao | Sgd]] = {
    "adamw": AdamW,
    "adopt": Adopt,
    "mtdao": MtDao,
    "sgd": Sgd,
}


def build_optimizer(model: nn.Module, manifest: Manifest, group: Group = ALONE) -> InnerOptimizer:
    """The run's inner optimizer on ``model``'s parameters, where they lie now, with its state at the start.

    ``group`` are the devices of this node, all of which build and step alike. Raises ConfigError for a kind that the installed torch does not have.
    """
    config, parameters = manifest.optimizer, list(model.parameters())
    if config.kind in _WHOLE_MODEL:
        return _WHOLE_MODEL[config.kind](parameters, range(len(parameters)), state_streams(config), config)
    matrices = matrices_of(model, manifest)
    rest = [position for position in range(len(parameters)) if position not in matrices]
    return Composite(
        _of_matrices(model, manifest, matrices, group), _of_rest(model, config, rest), config.scalar_lr_ratio
    )


def _of_matrices(model: nn.Module, manifest: Manifest, positions: tuple[int, ...], group: Group) -> InnerOptimizer:
    config, named = manifest.optimizer, list(model.named_parameters())
    parameters = [named[position][1] for position in positions]
    if config.kind == "muon":
        return Muon(parameters, positions, _streams(config, Scope.MATRICES), config)
    seed = hashlib.sha256(f"dion|{manifest.seed}".encode()).digest()
    names = [named[position][0] for position in positions]
    return DionOptimizer(parameters, positions, names, config, seed, group=group)


def _of_rest(model: nn.Module, config: OptimizerConfig, positions: Sequence[int]) -> InnerOptimizer:
    everything = list(model.parameters())
    parameters, streams = [everything[position] for position in positions], _streams(config, Scope.REST)
    if config.scalar == "adamw":
        return AdamW(parameters, positions, streams, config)
    head = output_head(model)
    # A sign moves every weight alike, so that the output's change grows with the number of inputs (Dion, 2504.05295, app. D).
    scales = [parameter.shape[1] ** -0.5 if parameter is head else 1.0 for parameter in parameters]
    return Lion(parameters, positions, streams, config, scales)


def _streams(config: OptimizerConfig, scope: Scope) -> tuple[StateStream, ...]:
    return tuple(stream for stream in state_streams(config) if stream.scope is scope)
