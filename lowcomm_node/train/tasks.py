"""Tasks: another model, another loss and other data, from this package or from another that is installed on every node.

A package names its task in the entry-point group ``lowcomm_node.tasks``; a manifest holds the name and the options. docs/tasks.md
shows one. Everything else (optimizers, meetings, checkpoints, reports) is as for language models.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from lowcomm_node.errors import ConfigError, DataError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.batches import Batch, num_rows, slice_of
from lowcomm_node.units import PeerId, RunId

__all__ = ["GROUP", "OWN", "Task", "TaskData", "find_task", "judge_of", "load_task", "manifest_of"]

GROUP = "lowcomm_node.tasks"
_FUNCTIONS = ("build", "matrices", "loss", "load", "batch")
OWN = tuple(EntryPoint(name, f"lowcomm_node.train.vision.tasks:{name.upper()}", GROUP) for name in ("vgg", "vit"))
"""Those of this package. Not among its entry points: a checkout that was installed before they were there would not know them."""

Options = Mapping[str, object]
"""The manifest's table [model.config]."""


Judge = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
"""Mean loss of a batch's examples, as ``Task.loss``, and the share of them that are answered right, both 0-d."""


class Task(Protocol):
    """The five functions of a task: a module that has them will do, or any object.

    It may have two things more: ``judge``, see ``judge_of``, and ``manifest``, see ``manifest_of``.
    """

    def build(self, options: Options) -> nn.Module:
        """The model with its initial weights, on the CPU. Draw from torch's global generator: it begins at the run's seed."""
        ...

    def matrices(self, model: nn.Module) -> Collection[str]:
        """Names of the parameters that Muon and Dion may orthonormalise: matrices between hidden layers. May be empty."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 - whatever the task's own batches are
        """Mean loss of a batch's examples, 0-d. The same for a batch as for the mean over its parts of equal size."""
        ...

    def load(self, options: Options, paths: Sequence[str], validation_ratio: float) -> tuple[Any, Batch]:
        """The node's training data, in whatever form but with a length, and the held-out examples as one batch.

        ``paths`` are the node's data.paths. Hold out by a hash of something that every node sees alike (the name of a file,
        the bytes of an example): what one node holds out, no other should train on.
        """
        ...

    def batch(self, data: Any, rows: int, generator: torch.Generator) -> Batch:  # noqa: ANN401 - what ``load`` has given
        """``rows`` examples for training, int or float tensors with the example as first dimension; drawn with ``generator`` alone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """A node's endless sequence of training batches, as ``data.Stream``; and what is held out."""

    task: Task
    data: Sized
    rows: int
    run_id: RunId
    peer_id: PeerId
    held_out: tuple[Batch, ...]

    def batch(self, index: int) -> Batch:
        """Batch ``index``: of the same run, node and data always the same."""
        name = f"lowcomm/v1/batch|{self.run_id}|{self.peer_id}|{index}"
        digest = hashlib.sha256(name.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
        return self.task.batch(self.data, self.rows, generator)


def find_task(name: str) -> Task:
    """The installed task of this name. Raises ConfigError when there is none, or when it is none."""
    installed = (*OWN, *entry_points(group=GROUP))
    found = [point for point in installed if point.name == name]
    if len(found) != 1:
        known = ", ".join(sorted({point.name for point in installed})) or "none"
        reason = f"{len(found)} installed packages bring one" if found else "no installed package brings it"
        raise ConfigError(
            f"model.task = {name!r}: {reason} (installed: {known}); the organiser says which package it takes"
        )
    try:
        task = found[0].load()
    except (AttributeError, ImportError) as error:
        raise ConfigError(f"model.task = {name!r}: {found[0].value} cannot be loaded: {error}") from error
    missing = [function for function in _FUNCTIONS if not callable(getattr(task, function, None))]
    if missing:
        raise ConfigError(f"model.task = {name!r}: {found[0].value} lacks the functions {', '.join(missing)}")
    return cast("Task", task)


def judge_of(task: Task) -> Judge | None:
    """The task's ``judge``, which is called in place of ``loss`` on what is held out; None where it has none."""
    found: Judge | None = getattr(task, "judge", None)
    return found


def manifest_of(task: Task) -> Mapping[str, Mapping[str, object]]:
    """Values by section and key that fit the task with its default options: ``init --task`` and ``bench methods --task`` begin with them."""
    found: Mapping[str, Mapping[str, object]] = getattr(task, "manifest", {})
    return found


def load_task(
    manifest: Manifest, paths: Sequence[str], run_id: RunId, peer_id: PeerId, max_held_out_batches: int
) -> TaskData:
    """The data of the manifest's task. Raises ConfigError as ``find_task``, and DataError when nothing is held out or left."""
    task, rows = find_task(manifest.model.task), manifest.training.batch_size
    data, held_out = task.load(manifest.model.options, tuple(paths), manifest.data.validation_ratio)
    examples = num_rows(held_out)
    if not examples or not len(data):
        raise DataError(
            f"model.task = {manifest.model.task!r}: {len(data)} examples to train on and {examples} held out"
        )
    count = min(examples, rows * max_held_out_batches)
    return TaskData(
        task=task,
        data=data,
        rows=rows,
        run_id=run_id,
        peer_id=peer_id,
        held_out=tuple(slice_of(held_out, first, min(first + rows, count)) for first in range(0, count, rows)),
    )
