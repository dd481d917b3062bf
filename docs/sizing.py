"""The tables of sizes in ``docs/deploy.md``, from the settings code: what a model takes of a machine, and of its line.

python docs/sizing.py                     the tables
python docs/sizing.py my-run.toml ...     the same of other manifests
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lowcomm_node.daemon.doctor.machine import wished_bytes
from lowcomm_node.settings.load import read_manifest
from lowcomm_node.settings.manifest import Manifest, ModelConfig, TrainingConfig
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.sizes import memory_bytes, state_bytes

__all__ = ["page"]

_LINES_MBIT_PER_S = (5, 20, 100, 1000)
_WISHED_EVERY_S = 60.0
_SHARE = 0.5
"""Of the uplink, for meetings; the rest is for downloads by joiners and for whoever else uses it."""
_SHAPES = ((9, 8, 512, 1408, 512), (12, 12, 768, 2048, 1024), (24, 16, 1024, 2816, 1024), (24, 16, 2048, 5632, 2048))
"""Layers, heads, width, hidden width, context."""


def page(manifests: Sequence[Manifest]) -> str:
    """Two tables in Markdown."""
    return "\n".join([*_machine_rows(manifests), "", *_line_rows(manifests)]) + "\n"


def _machine_rows(manifests: Sequence[Manifest]) -> Iterator[str]:
    yield "| parameters | batch | memory of the device | disk | a meeting, each way | a joiner's download |"
    yield "|---|---|---|---|---|---|"
    for manifest in manifests:
        batch = f"{manifest.training.batch_size} x {manifest.model.context_length:,}"
        sizes = (
            memory_bytes(manifest, 1),
            wished_bytes(NodeSettings(), manifest),
            manifest.budget_bytes,
            state_bytes(manifest),
        )
        yield f"| {_name(manifest)} | {batch} | " + " | ".join(map(_size, sizes)) + " |"


def _line_rows(manifests: Sequence[Manifest]) -> Iterator[str]:
    yield "| parameters |" + "".join(f" {rate:,} Mbit/s up |" for rate in _LINES_MBIT_PER_S)
    yield "|---|" + "---|" * len(_LINES_MBIT_PER_S)
    for manifest in manifests:
        yield f"| {_name(manifest)} |" + "".join(
            f" {_cell(manifest.budget_bytes, rate)} |" for rate in _LINES_MBIT_PER_S
        )


def _cell(payload_bytes: int, rate_mbit_per_s: float) -> str:
    # Whoever starts a meeting now and then is asked for as many by others.
    busy_s = 2 * payload_bytes / (rate_mbit_per_s * 1e6 / 8)
    every_s = max(_WISHED_EVERY_S, busy_s / _SHARE)
    return f"every {every_s:,.0f} s, {_size(2 * payload_bytes * 86400 / every_s)}"


def _name(manifest: Manifest) -> str:
    millions = manifest.model.num_parameters / 1e6
    return f"{millions:,.0f} M" if millions >= 1 else f"{millions:.2f} M"


def _size(num_bytes: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= factor:
            return (
                f"{num_bytes / factor:,.0f} {unit}" if num_bytes >= 10 * factor else f"{num_bytes / factor:.1f} {unit}"
            )
    return f"{num_bytes / 1e3:,.0f} kB"


def _examples() -> list[Manifest]:
    found = [Manifest()]
    for layers, heads, width, hidden, context in _SHAPES:
        model = ModelConfig(num_layers=layers, num_heads=heads, d_model=width, d_ff=hidden, context_length=context)
        found.append(Manifest(model=model, training=TrainingConfig(batch_size=8)))
    return found


if __name__ == "__main__":
    sys.stdout.write(page([read_manifest(Path(name)) for name in sys.argv[1:]] or _examples()))
