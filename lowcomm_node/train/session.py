"""Everything one node trains with, built from the manifest and the node's settings."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DeviceSettings, NodeSettings
from lowcomm_node.settings.paths import resolve_state_dir
from lowcomm_node.train.data.corpus import open_corpus
from lowcomm_node.train.data.pool import Filler, open_pool
from lowcomm_node.train.data.stream import Source, Stream, validation_batches
from lowcomm_node.train.device_group import DeviceGroup
from lowcomm_node.train.devices import Devices, LeadingReplica
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import PeerId, RunId

__all__ = ["VALIDATION_BATCHES", "Session", "build_session", "choose_device", "choose_devices"]

VALIDATION_BATCHES = 12
"""Batches of one look at the validation loss: under 5 % of the time at the default period of 100 steps."""

_ALLOWED_DEVICES = '"auto", "cpu", "cuda", "cuda:N", or several of one kind with commas between them'


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
    """Of a dataset that is being read, those that are here so far."""
    validation_tokens: int
    filler: Filler | None = None
    """The process that reads a dataset on."""

    def close(self) -> None:
        """End what was started for it."""
        if self.filler is not None:
            self.filler.close()


def build_session(
    manifest: Manifest, settings: NodeSettings, run_id: RunId, peer_id: PeerId, group: DeviceGroup | None = None
) -> Session:
    """Model with the run's initial weights, optimizer, and this node's data, on the first device of the settings.

    ``group`` are the replicas on all devices of the node, where there are several; they share its CPU threads. Sets torch's
    number of threads for the whole process. Raises ConfigError for a device that is not there or an optimizer that the
    installed torch has not, DataError for data that are not there, and StoreError when their tokens cannot be kept.
    """
    device = choose_device(settings.device)
    num_threads = settings.device.threads or _available_cpus()
    torch.set_num_threads(num_threads if group is None else max(1, num_threads // group.size))
    batch_size, context_length = manifest.training.batch_size, manifest.model.context_length
    state_dir = resolve_state_dir(settings.state_dir, os.environ)
    train: Source
    filler: Filler | None = None
    if settings.data.dataset:
        is_leader = group is None or isinstance(group, Devices)
        pool, filler = open_pool(manifest, settings.data, state_dir, run_id, peer_id, is_leader=is_leader)
        train, validation = pool, pool.validation
    else:
        corpus = open_corpus(manifest, settings.data, state_dir)
        train, validation = corpus.train, corpus.validation
    windows = validation_batches(validation, batch_size, context_length, VALIDATION_BATCHES)
    replica = _replica(manifest, device, group)
    replica.micro_batches = min(settings.device.micro_batches or 1, batch_size)
    return Session(
        manifest=manifest,
        run_id=run_id,
        replica=replica,
        stream=Stream(train, batch_size, context_length, run_id, peer_id),
        validation=[window.to(device) for window in windows],
        eval_every_steps=settings.eval_every_steps,
        train_tokens=len(train),
        validation_tokens=len(validation),
        filler=filler,
    )


def choose_device(settings: DeviceSettings) -> torch.device:
    """The torch device to train on, the first of several. Raises ConfigError when one does not exist on this machine."""
    return choose_devices(settings)[0]


def choose_devices(settings: DeviceSettings) -> tuple[torch.device, ...]:
    """All devices that the settings name. Raises ConfigError when one does not exist here, or they do not go together."""
    if settings.name == "auto":
        return (torch.device("cuda" if torch.cuda.is_available() else "cpu"),)
    devices = tuple(_parse_device(settings.name, word.strip()) for word in settings.name.split(","))
    cuda = [device.index or 0 for device in devices if device.type == "cuda"]
    if cuda and len(set(cuda)) < len(devices):
        raise ConfigError(
            f'device.name = {settings.name!r}: several devices are different GPUs ("cuda:0,cuda:1") or, to try it, all "cpu"'
        )
    return devices


def _parse_device(name: str, word: str) -> torch.device:
    try:
        device = torch.device(word)
    except RuntimeError as error:
        raise ConfigError(f"device.name = {name!r} is not a device; allowed: {_ALLOWED_DEVICES}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device.name = {name!r} is not supported; allowed: {_ALLOWED_DEVICES}")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f'device.name = {name!r}, but torch sees {count} CUDA devices here; use "auto" or "cpu"')
    return device


def _replica(manifest: Manifest, device: torch.device, group: DeviceGroup | None) -> Replica:
    return LeadingReplica(manifest, device, group) if isinstance(group, Devices) else Replica(manifest, device, group)


def _available_cpus() -> int:
    # cpu_count() would ignore that a container or taskset allows fewer.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
