"""``bench methods``: runs what is missing, shows how far it is, and writes table, numbers and pictures."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lowcomm_node.bench.perform import run_trials
from lowcomm_node.bench.plots import plot_bytes, plot_spread, plot_tokens
from lowcomm_node.bench.store import read_result, write_json, write_result, write_text
from lowcomm_node.bench.summary import (
    BYTES_NOTE,
    COLUMNS,
    Row,
    cells_of,
    describe,
    front,
    markdown,
    parts_of,
    summarise,
    summary_json,
)
from lowcomm_node.bench.trial import Result, Trial
from lowcomm_node.cli.words import count

__all__ = ["compare"]


def compare(trials: Sequence[Trial], folder: Path, jobs: int, console: Console) -> None:
    """Run all trials that ``folder`` has no result of, and write the comparison of all. Raises LowcommError."""
    results = {trial.key: result for trial in trials if (result := read_result(folder, trial)) is not None}
    # Two methods may be one and the same run under these settings.
    missing = list({trial.key: trial for trial in trials if trial.key not in results}.values())
    if len(missing) < len({trial.key for trial in trials}):
        console.print(f"{count(len(results), 'result')} taken from {folder}", highlight=False)
    if missing:
        for trial, result in _shown(run_trials(missing, min(jobs, len(missing))), len(missing), console):
            write_result(folder, trial, result)
            results[trial.key] = result
    rows = summarise([(trial, results[trial.key]) for trial in trials])
    write_text(folder / "methods.md", markdown(rows))
    write_json(folder / "methods.json", summary_json(rows))
    plot_bytes(rows, folder / "loss-bytes.png")
    plot_tokens(rows, folder / "loss-tokens.png")
    plot_spread(rows, folder / "spread-lr.png")
    _print_table(rows, console)
    console.print(f"written to {folder}: methods.md, methods.json, loss-bytes.png, loss-tokens.png, spread-lr.png")


def _shown(finished: Iterable[tuple[Trial, Result]], total: int, console: Console) -> Iterator[tuple[Trial, Result]]:
    """Pass results on; a bar on a terminal, a line for each elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("trials", total=total)
        for number, (trial, result) in enumerate(finished, start=1):
            progress.advance(task)
            line = f"{number}/{total}  {trial.label}, seed {trial.seed}: loss {result.loss:.4f}, {result.seconds:.0f} s"
            console.print(line, highlight=False)
            yield trial, result


def _print_table(rows: Sequence[Row], console: Console) -> None:
    table = Table(title=describe(rows), title_justify="left", title_style="bold")
    for index, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    best = front(rows)
    for row in rows:
        table.add_row(*cells_of(row, is_on_front=row in best))
    console.print(table)
    for line in (*parts_of(rows), BYTES_NOTE):
        console.print(line, style="dim", highlight=False)
