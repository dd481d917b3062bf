"""``bench utilisation``: a meeting of a 30.8M-parameter model is weighed, sent over lines of several rates, and reckoned up."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lowcomm_node.bench.link_load import LinkLoad
from lowcomm_node.bench.requests import UtilisationRequest
from lowcomm_node.bench.store import write_json
from lowcomm_node.bench.utilisation import PUBLISHED, PUBLISHED_MODEL, LineFigures, Meeting, line_figures
from lowcomm_node.bench.weighed_meeting import WeighedModel
from lowcomm_node.cli.bench.link import run_ends, shaped_place
from lowcomm_node.cli.swarm.lines import LineShape
from lowcomm_node.cli.swarm.shaping import ShapingError
from lowcomm_node.settings.manifest import Manifest, MeetingConfig, TrainingConfig

__all__ = ["measure_utilisation"]

_MEETINGS = 3
_COLUMNS = (
    "line",
    "step",
    "meeting",
    "published",
    "ring, fp32",
    "standing still",
    "going on",
    "steps between",
    "of the line",
)


def measure_utilisation(request: UtilisationRequest, json_file: Path | None, console: Console) -> None:
    """Weigh, send, reckon, show. Without Linux and root nothing is sent, and all is reckoned. Raises LowcommError."""
    request.check()
    manifest = Manifest(
        name="utilisation", model=PUBLISHED_MODEL, training=TrainingConfig(batch_size=4, total_steps=1000)
    )
    model = WeighedModel(manifest, request.threads or os.cpu_count() or 1)
    default, whole = manifest.meeting, replace(manifest.meeting, codec="dense", dtype="bf16")
    meetings = [_weighed(model, "default", default, console), _weighed(model, "whole, bf16", whole, console)]
    console.print(
        f"a step of {manifest.tokens_per_step:,} tokens takes {model.step_s:.2f} s here, {1e3 * PUBLISHED.step_s:.1f} ms there",
        highlight=False,
    )
    seconds = _over_lines(request, meetings[0], console)
    rows: list[tuple[Meeting, LineFigures]] = []
    for step_s in (PUBLISHED.step_s, model.step_s):
        for meeting in meetings:
            rows += [
                (
                    meeting,
                    line_figures(
                        meeting,
                        parameters=manifest.model.num_parameters,
                        rate_mbit=rate_mbit,
                        meeting_s=meeting_s * meeting.payload_bytes / meetings[0].payload_bytes,
                        is_measured=is_measured and meeting is meetings[0],
                        step_s=step_s,
                        is_codec_known=step_s is model.step_s,
                        period_steps=default.params_every_steps,
                    ),
                )
                for rate_mbit, (meeting_s, is_measured) in seconds.items()
            ]
    _show(rows, meetings, manifest, console)
    if json_file is not None:
        lines = [{"coding": meeting.coding, **asdict(figures)} for meeting, figures in rows]
        plain = {"published": asdict(PUBLISHED), "meetings": [asdict(meeting) for meeting in meetings], "lines": lines}
        write_json(json_file, plain)
        console.print(f"written to {json_file}", highlight=False)


def _weighed(model: WeighedModel, coding: str, config: MeetingConfig, console: Console) -> Meeting:
    meeting = model.weigh(coding, config)
    console.print(
        f"{coding}: offer {meeting.offer_bytes:,}, answer {meeting.answer_bytes:,}, close {meeting.close_bytes:,} bytes; codecs "
        f"{meeting.initiator_s:.3f} s and {meeting.answerer_s:.3f} s",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return meeting


def _over_lines(request: UtilisationRequest, meeting: Meeting, console: Console) -> dict[float, tuple[float, bool]]:
    """Seconds of a meeting by rate, and whether they were measured; what is too fast to be emulated is reckoned from the fastest that is not."""
    load = LinkLoad(
        carrier="grpc",
        host="",
        is_answerer=False,
        offer_bytes=meeting.offer_bytes,
        answer_bytes=meeting.answer_bytes,
        close_bytes=meeting.close_bytes,
        meetings=_MEETINGS,
    )
    seconds: dict[float, tuple[float, bool]] = {}
    efficiency, most_emulated_mbit = 1.0, request.most_emulated_mbit
    for rate_mbit in sorted(request.rates_mbit):
        alone_s = meeting.payload_bytes * 8 / (rate_mbit * 1e6)
        if rate_mbit > most_emulated_mbit:
            seconds[rate_mbit] = alone_s / efficiency, False
            continue
        shape = LineShape(down_mbit=rate_mbit, up_mbit=rate_mbit, round_trip_ms=request.round_trip_ms)
        try:
            with shaped_place(shape, f"{rate_mbit:g}mbit", seed=0) as place:
                dialler, _ = run_ends(
                    place, replace(load, host=place.host(0)), replace(load, host=place.host(1), is_answerer=True)
                )
        except ShapingError as error:
            console.print(f"nothing is measured over lines, all is reckoned: {error}", soft_wrap=True, highlight=False)
            most_emulated_mbit, seconds[rate_mbit] = 0.0, (alone_s, False)
            continue
        taken_s = statistics.median(dialler.meetings_s[1:])  # the first one connects
        efficiency = alone_s / taken_s
        seconds[rate_mbit] = taken_s, True
        console.print(
            f"{rate_mbit:g} Mbit/s: {taken_s:.3g} s a meeting, {efficiency:.2f} of the line",
            highlight=False,
        )
    return seconds


def _show(
    rows: Sequence[tuple[Meeting, LineFigures]], meetings: Sequence[Meeting], manifest: Manifest, console: Console
) -> None:
    for coding in (meeting.coding for meeting in meetings):
        title = f"{manifest.model.num_parameters:,} parameters, meetings: {coding}"
        table = Table(title=title, title_justify="left", title_style="bold")
        for column in _COLUMNS:
            table.add_column(column, justify="right", no_wrap=True)
        for meeting, figures in rows:
            if meeting.coding == coding:
                table.add_row(*_cells(figures))
        console.print(table)
    console.print(
        f"published: DiLoCo, H = {PUBLISHED.every_steps}, fp32, {PUBLISHED.nodes} nodes, measured by diloco-measured. ring, fp32: the same "
        f"by formula on a line that is full all the time. standing still: our meetings every {PUBLISHED.every_steps} steps, if nodes waited for "
        f"them. going on: as nodes do it, a meeting begun every {manifest.meeting.params_every_steps} steps, or every so "
        "many (steps between) as the line lets through; what is missing to 100% is codecs' work on this computer's processor, which the "
        "step of a GPU says nothing about: there it is left out. * reckoned, not measured.",
        style="dim", highlight=False,
    )  # fmt: skip


def _cells(figures: LineFigures) -> tuple[str, ...]:
    published = figures.published_share
    return (
        f"{figures.rate_mbit:g} Mbit/s",
        f"{figures.step_s:.3g} s",
        f"{figures.meeting_s:.3g} s{'' if figures.is_measured else ' *'}",
        "" if published is None else f"{published:.1%}",
        f"{figures.ring_share:.1%}",
        f"{figures.standing_share:.1%}",
        "" if figures.going_share is None else f"{figures.going_share:.1%}",
        f"{figures.steps_between:.1f}",
        f"{figures.line_share:.1%}",
    )
