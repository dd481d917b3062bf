"""Findings of ``bench codecs`` as a table, as JSON and as a picture."""

import math
from collections.abc import Sequence
from pathlib import Path

from lowcomm_node.bench.codecs import Finding
from lowcomm_node.telemetry.figures import COLOURS, STYLES, new_figure, save_figure

__all__ = ["CODEC_COLUMNS", "codec_cells", "codec_front", "codec_json", "codec_markdown", "plot_codecs"]

CODEC_COLUMNS = ("codec", "budget", "bytes", "captured", "least", "of best")

_MARKERS = "sDo^"

_NOTE = (
    "bytes: payloads of one end of a meeting, mean of both ends. captured: share of the difference's energy, mean over "
    "meetings; least: of the worst one. of best: against the best factors of the same ranks, unquantised. "
    "* nothing else captures as much with fewer bytes."
)


def codec_front(findings: Sequence[Finding]) -> list[Finding]:
    """Findings that no other one beats in both bytes and energy, fewest bytes first."""
    best: list[Finding] = []
    for finding in sorted(findings, key=lambda f: (f.mean("bytes_sent"), -f.mean("captured"))):
        if not best or finding.mean("captured") > best[-1].mean("captured"):
            best.append(finding)
    return best


def codec_cells(finding: Finding, *, is_on_front: bool) -> tuple[str, ...]:
    """One line of the table, a text per column."""
    budget, best = finding.case.budget_bytes, finding.mean("best")
    return (
        finding.case.label + (" *" if is_on_front else ""),
        f"{budget:,}" if budget else "",
        f"{finding.mean('bytes_sent'):,.0f}",
        f"{finding.mean('captured'):.4f}",
        f"{min(finding.captured, default=math.nan):.4f}",
        "" if math.isnan(best) else f"{finding.mean('captured') / best:.3f}",
    )


def codec_markdown(findings: Sequence[Finding], setting: str) -> str:
    """A page with the table."""
    best = codec_front(findings)
    return "\n".join(
        [
            "# bench codecs",
            "",
            setting + ".",
            "",
            "| " + " | ".join(CODEC_COLUMNS) + " |",
            "|" + " :--- |" + " ---: |" * (len(CODEC_COLUMNS) - 1),
            *("| " + " | ".join(codec_cells(f, is_on_front=f in best)) + " |" for f in findings),
            "",
            _NOTE,
            "",
        ]
    )


def codec_json(findings: Sequence[Finding], setting: str) -> dict[str, object]:
    """All findings with their numbers meeting by meeting."""
    best = codec_front(findings)
    return {
        "setting": setting,
        "findings": [
            {
                "label": finding.case.label,
                "codec": finding.case.codec.value,
                "dtype": finding.case.dtype.value,
                "omega": finding.case.omega.value,
                "is_per_pair": finding.case.is_per_pair,
                "has_power_step": finding.case.has_power_step,
                "budget_bytes": finding.case.budget_bytes,
                "is_on_front": finding in best,
                "bytes": finding.bytes_sent,
                "captured": finding.captured,
                "best": finding.best,
            }
            for finding in findings
        ],
    }


def plot_codecs(findings: Sequence[Finding], setting: str, path: Path) -> None:
    """Captured energy against bytes: a colour per codec and test matrix, a line over budgets per format. Raises StoreError."""
    figure, axes = new_figure("Energy that a meeting captures, against its bytes", setting)
    lines: dict[str, list[Finding]] = {}
    for finding in findings:
        lines.setdefault(finding.case.label, []).append(finding)
    kinds = list(dict.fromkeys(finding.case.kind for finding in findings))
    formats = list(dict.fromkeys(finding.case.dtype for finding in findings))
    for label, group in lines.items():
        case = group[0].case
        axes.plot(
            [finding.mean("bytes_sent") for finding in group],
            [finding.mean("captured") for finding in group],
            color=COLOURS[kinds.index(case.kind) % len(COLOURS)],
            linestyle=STYLES[formats.index(case.dtype)],
            marker=_MARKERS[formats.index(case.dtype)],
            markersize=4,
            linewidth=1.0,
            label=label,
        )
    axes.set_xscale("log")
    axes.set_xlabel("payload bytes of one end of a meeting")
    axes.set_ylabel("share of the difference's energy that is captured")
    save_figure(figure, axes, path)
