"""``bench checkpoint``: measures, size by size, and shows a table."""

import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lowcomm_node.bench.checkpoint_report import CHECKPOINT_COLUMNS, CHECKPOINT_NOTE, checkpoint_cells, checkpoint_json
from lowcomm_node.bench.checkpoints import CheckpointCost, measure_checkpoints
from lowcomm_node.bench.plan import CheckpointRequest
from lowcomm_node.bench.store import write_json
from lowcomm_node.errors import StoreError

__all__ = ["measure_cost"]


def measure_cost(request: CheckpointRequest, folder: Path, json_file: Path | None, console: Console) -> None:
    """Measure in a new folder below ``folder``, which is removed again, and show what was found. Raises LowcommError."""
    costs: list[CheckpointCost] = []
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as place:
            for cost in measure_checkpoints(request, Path(place)):
                costs.append(cost)
                console.print(f"{len(costs)} of {len(request.mib)} sizes measured", style="dim", highlight=False)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written to: {(error.strerror or str(error)).lower()}") from error
    table = Table(
        title=f"checkpoints on {costs[0].device}, written to {folder}", title_justify="left", title_style="bold"
    )
    for column in CHECKPOINT_COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for cost in costs:
        table.add_row(*checkpoint_cells(cost))
    console.print(table)
    console.print(CHECKPOINT_NOTE, style="dim", highlight=False)
    if json_file is not None:
        write_json(json_file, checkpoint_json(costs))
        console.print(f"written to {json_file}", highlight=False)
