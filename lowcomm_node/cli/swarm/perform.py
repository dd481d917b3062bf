"""``lowcomm-node swarm`` from its options to its exit status: prepare, run, judge, compare, report."""

import contextlib
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Console

from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.periods import periods_text
from lowcomm_node.cli.swarm.attendance import Absence, absences
from lowcomm_node.cli.swarm.calibrate import available_cores, mean_nodes, measure_pace, steps_that_fit, with_total_steps
from lowcomm_node.cli.swarm.calm import train_calm
from lowcomm_node.cli.swarm.calm_report import Trained, calm_sizes, calm_table, compare_with_calm
from lowcomm_node.cli.swarm.chaos import Fault
from lowcomm_node.cli.swarm.chaos_report import ChaosReport, chaos_table, make_chaos_report
from lowcomm_node.cli.swarm.compare import Hermit, train_hermits
from lowcomm_node.cli.swarm.conductor import Conductor, Ending
from lowcomm_node.cli.swarm.fleet import Fleet
from lowcomm_node.cli.swarm.havoc import Havoc
from lowcomm_node.cli.swarm.interrupts import Interrupts
from lowcomm_node.cli.swarm.launch import NodePlace, Workshop, threads_per_node, verdict_keep_s
from lowcomm_node.cli.swarm.line_report import line_table
from lowcomm_node.cli.swarm.observe import Observer
from lowcomm_node.cli.swarm.options import SwarmOptions
from lowcomm_node.cli.swarm.plot import plot_swarm
from lowcomm_node.cli.swarm.ports import choose_ports
from lowcomm_node.cli.swarm.report import SwarmReport, make_report, write_report
from lowcomm_node.cli.swarm.sandbox import Sandbox
from lowcomm_node.cli.swarm.shaped import local_seconds, processor_times, report_lines, room_maker, shaping_for
from lowcomm_node.cli.swarm.shaping import Shaping
from lowcomm_node.cli.swarm.throughput import ThroughputReport, compare_minutes, quiet_minutes, throughput_table
from lowcomm_node.cli.swarm.timeline import Timeline
from lowcomm_node.cli.swarm.verdict import report_table, verdict
from lowcomm_node.cli.swarm.view import View, view_for
from lowcomm_node.cli.swarm.watch import Watcher
from lowcomm_node.errors import LowcommError, StoreError
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DeviceSettings, NodeSettings
from lowcomm_node.units import PeerId

__all__ = ["perform"]

_MINUTES_TO_START = 2
"""Before the first minute without meetings: all nodes shall be there."""
_SPARE_SCHEDULE = 4
"""When throughput is compared, the schedule is so many times as long as what should fit: it must not end before the minutes do."""
_FAULTS_PER_ABSENCE = 3
"""So many of the kinds of faults keep a node from training for a while."""
_MEMORY_OVER_VERDICT = 2.0
"""A verdict is waited for and remembered from a moment that may be a deadline's length after the death."""


def perform(options: SwarmOptions, console: Console) -> int:
    """Run a swarm; returns the exit status. Raises LowcommError for what keeps it from starting."""
    options.check()
    with (
        Interrupts() as interrupts,
        _directory(options, console) as directory,
        _sandbox(options) as sandbox,
        shaping_for(options, options.seed or 0) as shaping,
    ):
        with view_for(console) as view:
            performance = _Performance(options, directory, view, interrupts, sandbox, shaping)
            report = performance.report()
        console.print(report_table(report))
        if report.chaos is not None:
            console.print(chaos_table(report.chaos, (Fault.SLEEP,) if options.sleep_s else tuple(Fault)))
        if report.calm is not None:
            console.print(calm_table(report.calm))
        if report.line is not None:
            console.print(line_table(report.line))
        if report.throughput is not None:
            console.print(throughput_table(report.throughput))
        console.print(verdict(report), soft_wrap=True, highlight=False)
        for what, path in performance.written.items():
            console.print(f"{what}: {path}", soft_wrap=True, highlight=False)
        if interrupts:
            return interrupts.exit_code
        return ExitCode.OK if report.has_kept_its_promises else ExitCode.FAILED


class _Performance:
    """One swarm with everything around it."""

    def __init__(
        self,
        options: SwarmOptions,
        directory: Path,
        view: View,
        interrupts: Interrupts,
        sandbox: Sandbox | None,
        shaping: Shaping | None,
    ) -> None:
        self._options = options
        self._sandbox = sandbox
        self._shaping = shaping
        self._directory = directory
        self._view = view
        self._interrupts = interrupts
        self._settings = NodeSettings(
            state_dir=str(directory / "conductor"),  # of the conductor itself: tokens of the text it judges by
            device=DeviceSettings(threads=threads_per_node(options.nodes, available_cores())),
            data=options.data_settings(),
        )
        self.written: dict[str, Path] = {}

    def report(self) -> SwarmReport:
        """Do it all; the report and the plot are written even when somebody interrupts."""
        manifest = self._manifest()
        self._view.say(f"optimizer {manifest.optimizer.kind}; meetings: {periods_text(manifest)}")
        self._run_id = run_id(manifest)
        quiet_from = datetime.now().astimezone()  # the clock that quiet hours go by
        quiet_minute = quiet_from.hour * 60 + quiet_from.minute + _MINUTES_TO_START
        quiet_hours = ""
        if self._options.compare_no_meetings and self._options.limit_s is not None:
            quiet_hours = quiet_minutes(quiet_minute, int(self._options.limit_s / 120) + _MINUTES_TO_START)
        workshop = Workshop(
            self._directory,
            manifest,
            settings=self._settings,
            sandbox=self._sandbox,
            room_of=room_maker(self._options, self._sandbox, self._shaping),
            quiet_hours=quiet_hours,
            is_patient=bool(self._options.sleep_s),
        )
        ports = choose_ports(self._options.members_max, self._options.port_base)
        places = [workshop.place(f"n{index}", of_node) for index, of_node in enumerate(ports)]
        if self._shaping is not None:
            self._shaping.start()
        fleet = Fleet(workshop.command)
        with Watcher() as watcher:
            processor_s = processor_times(self._options, fleet, self._shaping)
            observer = Observer(fleet, watcher, nodes=self._options.nodes, processor_s=processor_s)
            conductor = Conductor(
                self._options,
                places=places,
                fleet=fleet,
                observer=observer,
                view=self._view,
                interrupts=self._interrupts,
                first_address=workshop.address(places[0]),
                seed=manifest.seed,
            )
            conductor.run()
            ran_s = (datetime.now().astimezone() - quiet_from).total_seconds()
            began_at = local_seconds(quiet_from) + ran_s - observer.elapsed_s
        if self._options.recordings is not None and self._options.recordings.is_dir():
            shutil.copy(workshop.manifest_file, self._options.recordings)
            self.written["recordings"] = self._options.recordings
        report = make_report(
            observer.ledger,
            observer.history,
            conductor.ending,
            nodes=self._options.nodes,
            memory_peak_bytes=observer.memory_peak_bytes,
            seed=manifest.seed,
            command=sys.argv,
        )
        if conductor.havoc is not None:
            report = replace(report, chaos=self._chaos_report(conductor.havoc, conductor.ending))
        if self._shaping is not None:
            report = replace(report, line=report_lines(self._options, places, self._shaping, report, observer.ledger))
        if quiet_hours:
            report = replace(report, throughput=self._throughput(observer, began_at, quiet_minute))
        live = [place for place in places if place.name in conductor.ending.live]
        try:
            report = self._judge(report, manifest, live)
        except LowcommError as error:
            # The run itself is worth reporting, whatever keeps its states from being judged.
            self._view.say(f"error: {error}")
        if self._options.compare_calm and live and not self._interrupts:
            report = self._compare_calm(report, manifest, places)
        stamp = time.strftime("runs/swarm-%Y%m%d-%H%M%S")
        json_file = self._options.json_file or Path(f"{stamp}.json")
        plot_file = self._options.plot_file or Path(f"{stamp}.png")
        write_report(report, json_file)
        self.written["report"] = json_file
        plot_swarm(observer.history, report, plot_file)
        self.written["plot"] = plot_file
        return report

    def _throughput(self, observer: Observer, began_at: float, quiet_minute: int) -> ThroughputReport:
        """``began_at``: the begin of the run's clock, in seconds since the midnight that ``quiet_minute`` counts from."""
        all_train_s = [points[0].time_s for points in observer.history.nodes.values() if points]
        return compare_minutes(
            observer.history.swarm,
            began_at=began_at,
            from_minute=quiet_minute,
            whole_from_s=max(all_train_s) if len(all_train_s) >= self._options.nodes else math.inf,
        )

    def _chaos_report(self, havoc: Havoc, ending: Ending) -> ChaosReport:
        skipped: dict[Fault, str] = {}
        if self._sandbox is not None and self._sandbox.no_rooms:
            skipped |= dict.fromkeys((Fault.CUT_LINE, Fault.CUT_PAIR), self._sandbox.no_rooms)
        if self._sandbox is not None and self._sandbox.no_disks:
            skipped[Fault.FULL_DISK] = self._sandbox.no_disks
        report = make_chaos_report(
            havoc.cases,
            hangs=havoc.hangs,
            halves=havoc.halves(_MEMORY_OVER_VERDICT * verdict_keep_s(is_chaotic=not self._options.sleep_s)),
            skipped=skipped,
            is_complete=ending.reason in {"time", "finished"},
        )
        if self._options.sleep_s and not havoc.cases:
            return replace(
                report, broken=[*report.broken, "no node fell asleep: never did three of them train at once"]
            )
        return report

    def _compare_calm(self, report: SwarmReport, manifest: Manifest, places: Sequence[NodePlace]) -> SwarmReport:
        losses = {name: node.val_loss_end for name, node in report.per_node.items() if node.val_loss_end is not None}
        if not losses or report.progress_end <= 0:
            return report
        blows = report.chaos.blows if report.chaos is not None else []
        lost_steps = sum(blow.lost_steps or 0 for blow in blows)
        troubled = Trained(
            nodes=self._options.nodes,
            progress_steps=report.progress_end,
            tokens=report.tokens_total - lost_steps * manifest.tokens_per_step,
            meetings=report.meetings_completed,
            losses=losses,
        )
        calm = []
        for nodes in calm_sizes(troubled, tokens_per_step=manifest.tokens_per_step, most=len(places)):
            self._view.say(f"for comparison, {nodes} nodes train undisturbed up to the same progress")
            trained = self._train_calm(manifest, places[:nodes], troubled.progress_steps)
            if trained is None:
                return report
            calm.append(trained)
        orderly = None
        if blows:
            self._view.say("for comparison, the same nodes with the same absences, in order, up to the same progress")
            orderly = self._train_calm(manifest, places, troubled.progress_steps, absences(blows))
            if orderly is None:
                return report
        fewer, more = calm
        return replace(report, calm=compare_with_calm(troubled, fewer, more, orderly))

    def _train_calm(
        self,
        manifest: Manifest,
        like: Sequence[NodePlace],
        until_progress_steps: float,
        absences: Sequence[Absence] | None = None,
    ) -> Trained | None:
        """None when interrupted, or when no node left a state."""
        run = train_calm(
            self._options,
            directory=self._directory / (f"calm-{len(like)}" if absences is None else "orderly"),
            absences=absences,
            manifest=manifest,
            settings=self._settings,
            like=like,
            until_progress_steps=until_progress_steps,
            view=self._view,
            interrupts=self._interrupts,
        )
        if self._interrupts or not run.states:
            return None
        from lowcomm_node.cli.swarm.evaluation import Judge

        judge = Judge(manifest, self._run_id, self._settings)
        losses = {name: judge.loss_of(path) for name, path in run.states.items()}
        return Trained(
            nodes=len(like) if absences is None else self._options.nodes,
            progress_steps=run.progress_steps,
            tokens=run.tokens,
            meetings=run.meetings,
            losses=losses,
        )

    def _manifest(self) -> Manifest:
        """The run's manifest; a length is chosen where neither file nor options give one."""
        options = self._options
        manifest = options.read_manifest()
        if options.steps is not None:
            return with_total_steps(manifest, options.steps)
        if options.manifest is not None or options.limit_s is None:
            return manifest
        cores = available_cores()
        self._view.say(f"measuring how fast this computer trains the model ({manifest.name}), a few seconds")
        pace = measure_pace(manifest, self._settings, lambda: bool(self._interrupts))
        away_every_s = options.kill_every_s or _FAULTS_PER_ABSENCE * options.chaos_every_s
        shares = Timeline(kill_every_s=0, join_late=options.join_late, seed=0).late_shares
        total_steps = steps_that_fit(
            pace,
            seconds=options.limit_s,
            nodes=mean_nodes(nodes=options.nodes, late_shares=shares, kill_every_s=away_every_s),
            cores=cores,
            starts=options.join_late + int(options.limit_s / away_every_s if away_every_s else 0),
        )
        if options.compare_no_meetings:
            total_steps *= _SPARE_SCHEDULE
        self._view.say(
            f"one trainer alone takes {pace.steps_per_second:.1f} steps a second with {pace.threads} threads; "
            f"{options.nodes} nodes on {cores} cores: a schedule of {total_steps} steps for {options.limit_s:.0f} s"
        )
        return with_total_steps(manifest, total_steps)

    def _judge(self, report: SwarmReport, manifest: Manifest, live: Sequence[NodePlace]) -> SwarmReport:
        if self._interrupts or not live:
            return report
        from lowcomm_node.cli.swarm.evaluation import Judge

        def goes_on(share_done: float) -> bool:
            self._view.work("judging the models", share_done)
            return not self._interrupts

        goes_on(0.0)
        judge = Judge(manifest, self._run_id, self._settings)
        evaluation = judge.evaluate({place.name: place.final_state for place in live}, goes_on)
        per_node = {
            name: replace(node, val_loss_end=evaluation.losses.get(name)) for name, node in report.per_node.items()
        }
        report = replace(
            report,
            val_loss_start=evaluation.loss_start,
            val_loss_end=evaluation.loss_mean,
            val_loss_consensus=evaluation.loss_consensus,
            val_accuracy_end=evaluation.accuracy_mean,
            val_accuracy_consensus=evaluation.accuracy_consensus,
            spread_end=evaluation.spread,
            per_node=per_node,
        )
        if not self._options.compare_local or self._interrupts:
            return report
        hermits = self._hermits(report, live)
        if not self._train_hermits(hermits, manifest):
            return report
        losses = {hermit.name: judge.loss_of(hermit.state_file) for hermit in hermits}
        per_node = {name: replace(node, val_loss_local_only=losses.get(name)) for name, node in report.per_node.items()}
        return replace(report, val_loss_local_only=sum(losses.values()) / len(losses), per_node=per_node)

    def _hermits(self, report: SwarmReport, live: Sequence[NodePlace]) -> list[Hermit]:
        return [
            Hermit(
                name=place.name,
                peer_id=PeerId(report.per_node[place.name].peer_id),
                steps=max(1, report.per_node[place.name].steps),
                state_file=self._directory / f"{place.name}-alone.safetensors",
            )
            for place in live
        ]

    def _train_hermits(self, hermits: list[Hermit], manifest: Manifest) -> bool:
        self._view.say(f"for comparison, {len(hermits)} nodes train alone on the same data for as many steps")
        return train_hermits(
            hermits,
            manifest,
            self._run_id,
            self._settings,
            interrupts=self._interrupts,
            on_progress=lambda share_done: self._view.work("training alone", share_done),
        )


@contextlib.contextmanager
def _sandbox(options: SwarmOptions) -> Iterator[Sandbox | None]:
    """Under chaos, a private world; entered before there are threads, and left empty."""
    if not options.chaos_every_s:
        yield None
        return
    sandbox = Sandbox()
    try:
        yield sandbox
    finally:
        sandbox.close()


@contextlib.contextmanager
def _directory(options: SwarmOptions, console: Console) -> Iterator[Path]:
    """The swarm's directory: the user's, or a temporary one that goes unless it is to be kept."""
    if options.directory is not None:
        try:
            options.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"--dir {options.directory}: {error.strerror}") from error
        yield options.directory.resolve()
        return
    # A short name: Unix socket paths are limited to about a hundred bytes.
    directory = Path(tempfile.mkdtemp(prefix="lcn-"))
    try:
        yield directory
    finally:
        if options.keep:
            console.print(f"kept: {directory}", highlight=False)
        else:
            shutil.rmtree(directory, ignore_errors=True)
