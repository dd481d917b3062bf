"""Everything one node trains with, built from the manifest and the node's settings."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from lowcomm_node.core.micro_batches import fitting_parts
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DeviceSettings, NodeSettings
from lowcomm_node.settings.paths import resolve_state_dir
from lowcomm_node.settings.sizes import example_bytes, fixed_bytes
from lowcomm_node.train.batches import Batch, BatchSource, num_rows, to_device
from lowcomm_node.train.data.corpus import open_corpus
from lowcomm_node.train.data.pool import Filler, open_pool
from lowcomm_node.train.data.stream import Source, Stream, validation_batches
from lowcomm_node.train.data.words import bytes_per_token
from lowcomm_node.train.device_group import DeviceGroup
from lowcomm_node.train.devices import Devices, LeadingReplica
from lowcomm_node.train.execution import choose_execution
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.tasks import load_task
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
    stream: BatchSource
    validation: Sequence[Batch]
    eval_every_steps: int
    train_tokens: int
    """Of a dataset that is being read, those that are here so far."""
    validation_tokens: int
    bytes_per_token: float
    """Of held-out text; 0.0 where tokens stand for no text that is known here."""
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
    number of threads for the whole process. Raises ConfigError for a device, model, task or optimizer that cannot be had here,
    DataError for data that are not there, and StoreError when their tokens cannot be kept.
    """
    device = choose_device(settings.device)
    num_threads = settings.device.threads or _available_cpus()
    torch.set_num_threads(num_threads if group is None else max(1, num_threads // group.size))
    source = _source(manifest, settings, run_id, peer_id, is_leader=group is None or isinstance(group, Devices))
    execution = choose_execution(settings.device, device)
    if isinstance(group, Devices):
        replica: Replica = LeadingReplica(manifest, device, group, execution)
    else:
        replica = Replica(manifest, device, group, execution)
    wished = settings.device.micro_batches or _expected_parts(manifest, device, 1 if group is None else group.size)
    replica.micro_batches = min(wished, manifest.training.batch_size)
    return Session(
        manifest=manifest,
        run_id=run_id,
        replica=replica,
        stream=source.stream,
        validation=[to_device(batch, device) for batch in source.validation],
        eval_every_steps=settings.eval_every_steps,
        train_tokens=source.train_tokens,
        validation_tokens=source.validation_tokens,
        bytes_per_token=bytes_per_token(
            manifest, source.validation, Path(settings.data.tokenizer).expanduser() if settings.data.tokenizer else None
        ),
        filler=source.filler,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    stream: BatchSource
    validation: Sequence[Batch]
    train_tokens: int
    validation_tokens: int
    filler: Filler | None = None


def _source(manifest: Manifest, settings: NodeSettings, run_id: RunId, peer_id: PeerId, *, is_leader: bool) -> _Source:
    batch_size, context_length = manifest.training.batch_size, manifest.model.context_length
    if manifest.model.kind == "task":
        loaded = load_task(manifest, settings.data.paths, run_id, peer_id, VALIDATION_BATCHES)
        return _Source(
            stream=loaded,
            validation=loaded.held_out,
            train_tokens=len(loaded.data) * context_length,
            validation_tokens=sum(map(num_rows, loaded.held_out)) * context_length,
        )
    state_dir = resolve_state_dir(settings.state_dir, os.environ)
    train: Source
    filler: Filler | None = None
    if settings.data.dataset:
        pool, filler = open_pool(manifest, settings.data, state_dir, run_id, peer_id, is_leader=is_leader)
        train, validation = pool, pool.validation
    else:
        corpus = open_corpus(manifest, settings.data, state_dir)
        train, validation = corpus.train, corpus.validation
    return _Source(
        stream=Stream(train, batch_size, context_length, run_id, peer_id),
        validation=validation_batches(validation, batch_size, context_length, VALIDATION_BATCHES),
        train_tokens=len(train),
        validation_tokens=len(validation),
        filler=filler,
    )


def _expected_parts(manifest: Manifest, device: torch.device, num_devices: int) -> int:
    """Where to begin. A GPU says when its memory is full; a machine whose memory is full ends processes."""
    if device.type == "cuda":
        return 1
    free = psutil.virtual_memory().available // num_devices
    # Where by this estimate not even the rest fits, smaller parts may help, but one example at a time would be too slow for a guess.
    room = max(free - fixed_bytes(manifest), free // 4)
    return fitting_parts(example_bytes(manifest), manifest.training.batch_size, room)


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


def _available_cpus() -> int:
    # cpu_count() would ignore that a container or taskset allows fewer.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
