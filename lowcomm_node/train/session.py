"""Everything one node trains with, built from the manifest and the node's settings."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DeviceSettings, NodeSettings
from lowcomm_node.train.data import Stream, load_corpus, validation_batches
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import PeerId, RunId

__all__ = ["VALIDATION_BATCHES", "Session", "build_session", "choose_device"]

VALIDATION_BATCHES = 12
"""Batches of one look at the validation loss: under 5 % of the time at the default period of 100 steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A replica with its data."""

    manifest: Manifest
    run_id: RunId
    replica: Replica
    stream: Stream
    validation: Sequence[Tensor]
    eval_every_steps: int
    train_tokens: int
    validation_tokens: int


def build_session(manifest: Manifest, settings: NodeSettings, run_id: RunId, peer_id: PeerId) -> Session:
    """Model with the run's initial weights, optimizer, and this node's data.

    Sets torch's number of threads for the whole process. Raises ConfigError for a device that is not there or an
    optimizer that the installed torch has not, and DataError for text that is not there.
    """
    device = choose_device(settings.device)
    torch.set_num_threads(settings.device.threads or _available_cpus())
    batch_size, context_length = manifest.training.batch_size, manifest.model.context_length
    corpus = load_corpus(settings.data.paths, manifest.data, context_length)
    windows = validation_batches(corpus.validation, batch_size, context_length, VALIDATION_BATCHES)
    return Session(
        manifest=manifest,
        run_id=run_id,
        replica=Replica(manifest, device),
        stream=Stream(corpus.train, batch_size, context_length, run_id, peer_id),
        validation=[window.to(device) for window in windows],
        eval_every_steps=settings.eval_every_steps,
        train_tokens=len(corpus.train),
        validation_tokens=len(corpus.validation),
    )


def choose_device(settings: DeviceSettings) -> torch.device:
    """The torch device to train on. Raises ConfigError when it does not exist on this machine."""
    if settings.name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(settings.name)
    except RuntimeError as error:
        raise ConfigError(
            f'device.name = {settings.name!r} is not a device; allowed: "auto", "cpu", "cuda", "cuda:N"'
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f'device.name = {settings.name!r} is not supported; allowed: "auto", "cpu", "cuda", "cuda:N"')
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(
            f'device.name = {settings.name!r}, but torch sees {count} CUDA devices here; use "auto" or "cpu"'
        )
    return device


def _available_cpus() -> int:
    # cpu_count() would ignore that a container or taskset allows fewer.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
