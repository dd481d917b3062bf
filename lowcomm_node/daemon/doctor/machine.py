"""What can be found out about this machine without asking anybody: files, ports, limits, text, GPU, memory."""

import os
import resource
import shutil
import socket
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil

from lowcomm_node.adapters.checkpoint_store import newest_state_file
from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.adapters.tcp import congestion_control
from lowcomm_node.core.diagnosis import Facts
from lowcomm_node.daemon.children import Children
from lowcomm_node.daemon.lock import StateDirLock
from lowcomm_node.errors import ConfigError, DataError, StoreError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NetworkSettings, NodeSettings
from lowcomm_node.settings.sizes import memory_bytes, state_bytes

__all__ = ["look_at_machine", "look_at_trainer", "wished_bytes"]

_BYTES_PER_GB = 1e9
_DOWNLOADS = 2
"""The one being written, and a snapshot for others."""


def look_at_machine(facts: Facts, settings: NodeSettings, state_dir: Path, manifest: Manifest | None) -> Facts:
    """All that takes milliseconds; ``join`` does it too. Makes the state directory and the identity if there are none."""
    facts = _look_at_state(facts, state_dir)
    if not facts.state_dir_error:
        has_state = newest_state_file(state_dir).exists()
        facts = replace(
            facts,
            free_bytes=shutil.disk_usage(state_dir).free,
            needed_bytes=0 if manifest is None or has_state else state_bytes(manifest),
            wished_bytes=0 if manifest is None else max(0, wished_bytes(settings, manifest) - _pool_bytes(state_dir)),
        )
    if facts.running_pid is None:
        facts = replace(facts, busy_ports=tuple(_busy_ports(settings)))
    return replace(
        facts,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        is_loopback_only=settings.network.host in ("127.0.0.1", "::1", "localhost"),
        congestion_control=congestion_control(),
    )


def look_at_trainer(facts: Facts, settings: NodeSettings, manifest: Manifest | None) -> Facts:
    """What the trainer will find: torch, device, text, memory. Imports torch, which takes seconds."""
    try:
        import torch  # noqa: PLC0415 - late, as everywhere

        from lowcomm_node.train.data.corpus import check_data  # noqa: PLC0415 - imports torch
    except (ImportError, OSError) as error:
        return replace(facts, torch_error=f"torch cannot be loaded: {error}")
    try:
        if manifest is None or manifest.model.kind != "task":  # whose data are its own
            check_data(manifest, settings.data)
        facts = replace(facts, data_error="")
    except DataError as error:
        facts = replace(facts, data_error=str(error))
    names = _device_names(settings.device.name, has_cuda=torch.cuda.is_available())
    facts = replace(facts, torch_error="", torch_version=torch.__version__, device=", ".join(names))
    if any(name.startswith("cuda") for name in names):
        facts = replace(facts, gpu_error=_gpu_error(names))
    if manifest is None or facts.gpu_error:
        return facts
    free, name = _free_memory(names[0])
    return replace(
        facts,
        memory_bytes=memory_bytes(manifest, max(1, settings.device.micro_batches)),
        memory_free_bytes=free,
        memory_name=name,
    )


def _look_at_state(facts: Facts, state_dir: Path) -> Facts:
    """Facts about the state directory; everything is put back as it was, but for an identity that was not there."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = StateDirLock(state_dir)
        lock.acquire()
    except StoreError as error:
        pid = _holder(state_dir)
        return replace(facts, running_pid=pid) if pid else replace(facts, state_dir_error=str(error))
    except OSError as error:
        return replace(facts, state_dir_error=f"{state_dir}: {error.strerror or error}")
    try:
        probe = state_dir / f".doctor.{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        return replace(facts, state_dir_error=f"{state_dir} cannot be written: {error.strerror or error}")
    else:
        return replace(
            facts,
            state_dir_error="",
            identity_error=_identity_error(state_dir),
            leftovers=Children(state_dir).num_leftovers(),
        )
    finally:
        lock.release()


def _identity_error(state_dir: Path) -> str:
    try:
        load_or_create(state_dir / "identity.key")
    except ConfigError as error:
        return str(error)
    return ""


def _holder(state_dir: Path) -> int:
    """Pid of the node that has the directory; 0 for none."""
    try:
        pid = int((state_dir / "node.lock").read_text().strip() or 0)
    except (OSError, ValueError):
        return 0
    return pid if pid and psutil.pid_exists(pid) else 0


def wished_bytes(settings: NodeSettings, manifest: Manifest) -> int:
    """Room that checkpoints, a download and the tokens of a dataset will take, in bytes."""
    state = state_bytes(manifest)
    kept = (settings.checkpoint.keep + 1) * state
    if settings.checkpoint.max_bytes:
        kept = min(kept, settings.checkpoint.max_bytes + state)
    pool = int(settings.data.cache_gb * _BYTES_PER_GB) if settings.data.dataset else 0
    return kept + _DOWNLOADS * state + pool


def _pool_bytes(state_dir: Path) -> int:
    """Tokens that are there already, and will be replaced if they are not those that are wanted."""
    return sum(path.stat().st_size for path in (state_dir / "tokens").glob("*/*.bin"))


def _busy_ports(settings: NodeSettings) -> Iterable[str]:
    network: NetworkSettings = settings.network
    wanted = (
        ("network.dht_port", network.host, network.dht_port),
        ("network.grpc_port", network.host, network.grpc_port),
        ("metrics.port", settings.metrics.host, settings.metrics.port),
    )
    for key, host, port in wanted:
        if not port:
            continue  # a free one is picked at the start
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)  # a bound socket alone does not clash with another one
            except OSError as error:
                yield f"{key} = {port} on {host}: {(error.strerror or str(error)).lower()}"


def _device_names(name: str, *, has_cuda: bool) -> list[str]:
    if name == "auto":
        return ["cuda" if has_cuda else "cpu"]
    return [part.strip() for part in name.split(",")]


def _gpu_error(names: Iterable[str]) -> str:
    """What is wrong with the GPUs asked for: a kernel is run on each."""
    import torch  # noqa: PLC0415 - late, as everywhere

    for name in names:
        try:
            if float(torch.ones(8, device=name).sum()) != 8:
                return f"{name} computes wrong sums"
        except (RuntimeError, AssertionError) as error:
            return f"{name} cannot be used: {str(error).splitlines()[0]}"
    return ""


def _free_memory(name: str) -> tuple[int, str]:
    if name.startswith("cuda"):
        import torch  # noqa: PLC0415 - late, as everywhere

        return int(torch.cuda.mem_get_info(name)[0]), f"free on {name}"
    return psutil.virtual_memory().available, "of memory available"
