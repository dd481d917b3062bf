"""The frozen factors of one epoch of AB-training in a safetensors file, which one node writes and all others fetch.

Per split tensor "U/<parameter name>" (M x R) and "V/<parameter name>" (N x R), fp32. Written atomically; read with every name,
shape and value checked, because whoever has split is a stranger.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lowcomm_node.algo.frozen import SplitVectors, orthonormality_error
from lowcomm_node.errors import StoreError
from lowcomm_node.train.state_file import tensors_bytes_bound, write_tensors
from lowcomm_node.units import RunId

__all__ = ["SplitShape", "frozen_bytes_bound", "read_frozen", "write_frozen"]

_FORMAT = "lowcomm-frozen-1"
_SIDES = ("U", "V")
_LARGEST_ERROR = 1e-4
"""Of an entry of F^T F: an SVD in fp32 leaves a hundredth of it, and a projection that is off by so much is one."""


@dataclass(frozen=True, slots=True)
class SplitShape:
    """What the factors of one tensor can be: M x N its tall view, and the largest rank that the run allows."""

    m: int
    n: int
    largest_rank: int


def frozen_bytes_bound(shapes: Mapping[str, SplitShape]) -> int:
    """Upper bound of the size of a file with the factors of these tensors."""
    return tensors_bytes_bound(
        [4 * side * shape.largest_rank for shape in shapes.values() for side in (shape.m, shape.n)]
    )


def write_frozen(path: Path, vectors: Mapping[str, SplitVectors], run_id: RunId, epoch: int) -> None:
    """Replace ``path`` by these, or leave it as it was. Raises StoreError naming the file."""
    tensors = {}
    for name, own in vectors.items():
        tensors[f"U/{name}"], tensors[f"V/{name}"] = own.U, own.V
    write_tensors(path, tensors, {"format": _FORMAT, "run_id": run_id, "epoch": str(epoch)})


def read_frozen(path: Path, shapes: Mapping[str, SplitShape], run_id: RunId, epoch: int) -> dict[str, SplitVectors]:
    """Read and verify a file that must hold exactly the factors of these tensors; on the CPU.

    Refuses, with a StoreError naming the file and the first thing wrong: a size over the bound, another format, run or epoch,
    missing or additional tensors, other shapes or dtypes, ranks that differ between U and V or are more than the run allows, values
    that are not finite, columns that are not orthonormal. Memory: one copy.
    """
    largest = frozen_bytes_bound(shapes)
    try:
        size = path.stat().st_size
        if size > largest:
            _refuse(path, f"{size} bytes, more than the {largest} that this run's can have")
        with safe_open(path, framework="pt") as file:
            _check_metadata(path, file.metadata() or {}, run_id, epoch)
            expected = [f"{side}/{name}" for name in shapes for side in _SIDES]
            found = set(file.keys())
            for key in expected:
                if key not in found:
                    _refuse(path, f"{key} is missing")
            for key in found.difference(expected):
                _refuse(path, f"{key!r} is not split in this run")
            return {
                name: _checked(path, name, file.get_tensor(f"U/{name}"), file.get_tensor(f"V/{name}"), shape)
                for name, shape in shapes.items()
            }
    except (OSError, SafetensorError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: frozen factors cannot be read: {error}") from error


def _check_metadata(path: Path, metadata: dict[str, str], run_id: RunId, epoch: int) -> None:
    if metadata.get("format") != _FORMAT:
        _refuse(path, f"format {metadata.get('format')!r} instead of {_FORMAT!r}")
    if metadata.get("run_id") != run_id:
        _refuse(path, f"they belong to run {metadata.get('run_id')!r}, not {run_id!r}")
    if metadata.get("epoch") != str(epoch):
        _refuse(path, f"they are of epoch {metadata.get('epoch')!r}, not {epoch}")


def _checked(path: Path, name: str, U: Tensor, V: Tensor, shape: SplitShape) -> SplitVectors:  # noqa: N803 - as in algo
    rank = U.shape[1] if U.ndim == 2 else 0
    if not 1 <= rank <= shape.largest_rank:
        _refuse(path, f"U/{name} has shape {tuple(U.shape)}; its rank is from 1 to {shape.largest_rank}")
    for side, tensor, rows in (("U", U, shape.m), ("V", V, shape.n)):
        if tensor.dtype != torch.float32 or tuple(tensor.shape) != (rows, rank):
            _refuse(
                path, f"{side}/{name} is {tensor.dtype} {tuple(tensor.shape)} instead of torch.float32 {(rows, rank)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            _refuse(path, f"{side}/{name} has values that are not finite")
        error = orthonormality_error(tensor)
        if not error <= _LARGEST_ERROR:  # finite numbers may have products that are not
            _refuse(path, f"the columns of {side}/{name} are not orthonormal: {error:.2g} off")
    return SplitVectors(U, V)


def _refuse(path: Path, reason: str) -> NoReturn:
    raise StoreError(f"{path}: frozen factors refused: {reason}")
