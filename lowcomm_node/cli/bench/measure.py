"""``bench codecs``: measures, shows how far it is, and writes table, numbers and a picture."""

from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lowcomm_node.bench.codec_report import (
    CODEC_COLUMNS,
    codec_cells,
    codec_front,
    codec_json,
    codec_markdown,
    plot_codecs,
)
from lowcomm_node.bench.codecs import Finding, all_cases, measure_codecs
from lowcomm_node.bench.plan import CodecRequest, plan_codecs
from lowcomm_node.bench.store import write_json, write_text

__all__ = ["measure"]


def measure(request: CodecRequest, folder: Path, console: Console) -> None:
    """Measure all codecs and write what was found. Raises LowcommError."""
    trial = plan_codecs(request)
    findings: list[Finding] = []
    with Progress(console=console, disable=not console.is_terminal) as progress:
        meetings = measure_codecs(
            trial,
            all_cases(),
            every_steps=request.every_steps,
            meetings=request.meetings,
            burn_in_steps=request.burn_in_steps,
        )
        for so_far in progress.track(meetings, total=request.meetings, description="meetings"):
            findings = so_far
    setting = (
        f"differences after {request.every_steps} steps of {request.optimizer}, {trial.manifest.model.num_parameters:,} "
        f"parameters, {len(findings[0].captured)} of {request.meetings} meetings, seed {request.seed}"
    )
    name = f"codecs-{request.optimizer}-k{request.every_steps}"
    write_text(folder / f"{name}.md", codec_markdown(findings, setting))
    write_json(folder / f"{name}.json", codec_json(findings, setting))
    plot_codecs(findings, setting, folder / f"{name}.png")
    table = Table(title=setting, title_justify="left", title_style="bold")
    for index, column in enumerate(CODEC_COLUMNS):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for finding in codec_front(findings):
        table.add_row(*codec_cells(finding, is_on_front=True))
    console.print(table)
    console.print(f"only the front is shown; all {len(findings)} are in {folder}/{name}.md, .json and .png")
