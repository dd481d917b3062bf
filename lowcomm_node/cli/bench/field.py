"""``bench field``: a swarm of real nodes, then DDP, DiLoCo and lone replicas as processes, on the same data; loss against tokens and bytes."""

import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.bench.field import (
    Contender,
    Look,
    Outcome,
    Row,
    contenders,
    curve_of,
    reckoned_bytes,
    rows_of,
)
from lowcomm_node.bench.field_report import (
    FIELD_COLUMNS,
    FIELD_NOTE,
    field_cells,
    field_json,
    field_markdown,
    plot_field,
)
from lowcomm_node.bench.reference_load import MemberLoad, Reference
from lowcomm_node.bench.requests import FieldRequest
from lowcomm_node.bench.store import write_json, write_text
from lowcomm_node.cli.bench.counted import counted_networks, loopback_bytes, room_bytes
from lowcomm_node.cli.bench.references import run_members
from lowcomm_node.cli.swarm.calibrate import with_total_steps
from lowcomm_node.cli.swarm.conductor import Conductor
from lowcomm_node.cli.swarm.evaluation import Judge
from lowcomm_node.cli.swarm.fleet import Fleet
from lowcomm_node.cli.swarm.interrupts import Interrupts
from lowcomm_node.cli.swarm.launch import IDENTITY_FILE, NodePlace, Workshop
from lowcomm_node.cli.swarm.observe import Observer
from lowcomm_node.cli.swarm.options import SwarmOptions
from lowcomm_node.cli.swarm.ports import choose_ports
from lowcomm_node.cli.swarm.sandbox import Sandbox
from lowcomm_node.cli.swarm.view import View, view_for
from lowcomm_node.cli.swarm.watch import Watcher
from lowcomm_node.errors import LowcommError
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DataSettings, DeviceSettings, NodeSettings

__all__ = ["compare_field"]

_LOOKS = 25
"""As a swarm's nodes look at themselves (``launch``)."""


def compare_field(
    request: FieldRequest, manifest: Manifest, data: DataSettings, json_file: Path, console: Console
) -> None:
    """Run all contenders with all seeds, and write what came of it into ``json_file`` and beside it. Raises LowcommError."""
    request.check()
    manifest = with_total_steps(manifest, request.steps)
    outcomes: list[Outcome] = []
    with Interrupts() as interrupts, counted_networks() as sandbox:
        for seed in range(request.seeds):
            with tempfile.TemporaryDirectory(prefix="lcn-", ignore_cleanup_errors=True) as place:
                field = _Field(request, replace(manifest, seed=seed), data, Path(place), sandbox, interrupts)
                for outcome in field.outcomes(console):
                    outcomes.append(outcome)
                    console.print(
                        f"seed {seed}, {outcome.label}: loss {outcome.loss:.4f}, {outcome.bytes_per_node / 1e6:.3f} MB per node, "
                        f"{outcome.seconds:.0f} s",
                        highlight=False,
                    )  # fmt: skip
                    # Hours of it shall not be lost by what comes later.
                    _write(outcomes, _setting(request, manifest, outcomes), json_file)
    setting = _setting(request, manifest, outcomes)
    console.print(_table(rows_of(outcomes), setting))
    console.print(FIELD_NOTE, style="dim", highlight=False)
    console.print(f"written to {json_file}, and beside it field.md, field-tokens.png, field-bytes.png", highlight=False)


def _setting(request: FieldRequest, manifest: Manifest, outcomes: Sequence[Outcome]) -> str:
    seeds = len({outcome.seed for outcome in outcomes})
    return (
        f"{request.nodes} processes, {outcomes[0].parameters:,} parameters, {manifest.optimizer.kind}, {request.steps} steps of "
        f"{manifest.tokens_per_step:,} tokens each, {seeds} seed{'s' if seeds > 1 else ''}"
    )


def _write(outcomes: Sequence[Outcome], setting: str, json_file: Path) -> None:
    rows = rows_of(outcomes)
    write_json(json_file, field_json(outcomes, setting))
    write_text(json_file.with_name("field.md"), field_markdown(rows, setting))
    plot_field(rows, setting, json_file.parent)


def _table(rows: Sequence[Row], setting: str) -> Table:
    table = Table(title=setting, title_justify="left", title_style="bold")
    for index, column in enumerate(FIELD_COLUMNS):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*field_cells(row))
    return table


@dataclass(frozen=True, slots=True)
class _Ran:
    """One run before it is judged."""

    states: dict[str, Path]
    tokens: int
    bytes_per_node: float
    wire_bytes: int | None
    """Of all processes."""
    seconds: float
    curve: tuple[Look, ...]
    meetings: int = 0


class _Recorder(Observer):
    """Remembers what the swarm had sent when it was how good."""

    curve: list[Look]

    def remember(self) -> None:
        super().remember()
        point = self.history.swarm[-1]
        if not math.isnan(point.validation_loss):
            num_nodes = max(1, len(self.ledger.nodes))
            self.curve.append(
                Look(tokens=point.tokens, bytes_per_node=point.bytes_sent / num_nodes, loss=point.validation_loss)
            )


class _Field:
    """All contenders with one seed."""

    def __init__(
        self,
        request: FieldRequest,
        manifest: Manifest,
        data: DataSettings,
        directory: Path,
        sandbox: Sandbox | None,
        interrupts: Interrupts,
    ) -> None:
        self._request = request
        self._manifest = manifest
        self._directory = directory
        self._sandbox = sandbox
        self._interrupts = interrupts
        self._settings = NodeSettings(
            state_dir=str(directory / "tokens"),
            device=DeviceSettings(threads=request.threads, name="cpu"),
            data=data,
        )
        (directory / "swarm").mkdir()
        self._workshop = Workshop(
            directory / "swarm", manifest, settings=self._settings,
            room_of=(lambda name: sandbox.room(1 + int(name[1:]))) if sandbox is not None else None,
        )  # fmt: skip
        ports = choose_ports(request.nodes, None)
        self._places = [self._workshop.place(f"n{index}", of_node) for index, of_node in enumerate(ports)]
        for place in self._places:
            load_or_create(place.directory / IDENTITY_FILE)

    def outcomes(self, console: Console) -> Iterator[Outcome]:
        """One after the other, each judged on the same windows. Raises LowcommError."""
        judge: Judge | None = None
        for contender in contenders(self._request.diloco_every_steps):
            if contender.reference is None:
                with view_for(console) as view:
                    ran = self._swarm(view)
            else:
                ran = self._reference(contender, contender.reference)
            judge = judge or Judge(self._manifest, run_id(self._manifest), self._settings)
            evaluation = judge.evaluate(ran.states, lambda _share: not self._interrupts)
            if self._interrupts or evaluation.loss_consensus is None or evaluation.loss_mean is None:
                raise LowcommError("interrupted: only what was finished is written")
            yield Outcome(
                label=contender.label,
                seed=self._manifest.seed,
                loss=evaluation.loss_mean,
                loss_averaged=evaluation.loss_consensus,
                spread=evaluation.spread or 0.0,
                tokens=ran.tokens,
                bytes_per_node=ran.bytes_per_node,
                wire_bytes_per_node=None if ran.wire_bytes is None else ran.wire_bytes / self._request.nodes,
                reckoned_bytes=reckoned_bytes(
                    contender,
                    parameters=self._manifest.model.num_parameters,
                    nodes=self._request.nodes,
                    steps=self._request.steps,
                ),
                seconds=ran.seconds,
                parameters=self._manifest.model.num_parameters,
                meetings=ran.meetings,
                curve=ran.curve,
            )

    def _swarm(self, view: View) -> _Ran:
        fleet = Fleet(self._workshop.command)
        with Watcher() as watcher:
            observer = _Recorder(fleet, watcher, nodes=self._request.nodes)
            observer.curve = []
            conductor = Conductor(
                SwarmOptions(nodes=self._request.nodes, steps=self._request.steps),
                places=self._places,
                fleet=fleet,
                observer=observer,
                view=view,
                interrupts=self._interrupts,
                first_address=self._workshop.address(self._places[0]),
                seed=self._manifest.seed,
            )
            conductor.run()
        if conductor.ending.reason != "finished" or len(conductor.ending.live) < self._request.nodes:
            raise LowcommError(
                f"the swarm did not finish: {conductor.ending.reason}, {len(conductor.ending.live)} nodes live"
            )
        return _Ran(
            states={place.name: place.final_state for place in self._places},
            tokens=observer.ledger.tokens,
            bytes_per_node=observer.ledger.bytes_sent_total / self._request.nodes,
            wire_bytes=_sent_by(self._places),
            seconds=conductor.ending.seconds,
            curve=tuple(observer.curve),
            meetings=observer.ledger.meetings_completed,
        )

    def _reference(self, contender: Contender, reference: Reference) -> _Ran:
        folder = self._directory / contender.label
        folder.mkdir()
        loads = [
            MemberLoad(
                manifest=str(self._workshop.manifest_file),
                peer_id=load_or_create(place.directory / IDENTITY_FILE).peer_id,
                rank=rank,
                size=self._request.nodes,
                rendezvous=str(folder / "rendezvous"),
                reference=reference,
                diloco_every_steps=contender.every_steps,
                threads=self._request.threads,
                eval_every_steps=max(1, self._request.steps // _LOOKS),
                state_dir=self._settings.state_dir,
                state_file=str(folder / f"{place.name}.safetensors"),
                data=self._settings.data.paths,
                tokenizer=self._settings.data.tokenizer,
            )
            for rank, place in enumerate(self._places)
        ]
        before = loopback_bytes(self._sandbox)
        run = run_members(loads, folder)
        after = loopback_bytes(self._sandbox)
        curve = curve_of(run.tellings)
        return _Ran(
            states={place.name: Path(load.state_file) for place, load in zip(self._places, loads, strict=True)},
            tokens=sum(said[-1].tokens for said in run.tellings),
            bytes_per_node=statistics.fmean(said[-1].received_bytes or 0 for said in run.tellings),
            wire_bytes=after - before if after is not None and before is not None else None,
            seconds=run.seconds,
            curve=curve,
        )


def _sent_by(places: Sequence[NodePlace]) -> int | None:
    rooms = [place.room for place in places if place.room is not None]
    return sum(map(room_bytes, rooms)) if len(rooms) == len(places) else None
