"""``bench start``: how long a node takes to its first step, and a late one until its model is as good as the swarm's."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lowcomm_node.bench.starts import Milestones, Moment, medians, milestones_of
from lowcomm_node.bench.store import write_json
from lowcomm_node.cli.bench.bare_loops import BareLoops
from lowcomm_node.cli.bench.trial_swarm import TrialSwarm, wait
from lowcomm_node.cli.swarm.interrupts import Interrupts
from lowcomm_node.cli.swarm.lines import LineShape
from lowcomm_node.cli.swarm.lives import Status
from lowcomm_node.errors import ConfigError, LowcommError
from lowcomm_node.settings.manifest import Manifest

__all__ = ["StartRequest", "measure_starts"]

_LOOK_EVERY_S = 0.1
_START_PATIENCE_S = 240.0
_JOIN_PATIENCE_S = 240.0
_QUICK_S = 5.0
_EVAL_EVERY_STEPS = 10
_ENDLESS_STEPS = 20_000_000
_BARE, _FIRST, _LATE = "a bare loop", "a node that begins a run", "a node that joins late"
_COLUMNS = {
    "answers_s": "answers", "syncing_s": "downloads", "training_s": "trains", "first_step_s": "first step",
    "swarm_loss_s": "as good as the swarm",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """The command line of ``bench start``."""

    rounds: int = 3
    nodes: int = 3
    """That train when the late ones come."""
    train_s: float = 60.0
    """For how long, before the first of the late ones."""
    line: LineShape | None = None
    line_words: str = ""
    is_quick: bool = False

    def check(self) -> None:
        """Raises ConfigError."""
        if self.rounds < 1:
            raise ConfigError(f"--rounds {self.rounds} is not allowed; allowed: at least 1")
        if not 1 <= self.nodes <= 16:
            raise ConfigError(f"--nodes {self.nodes} is not allowed; allowed: 1 to 16")

    def manifest(self, given: Manifest | None) -> Manifest:
        """A run that does not end meanwhile."""
        manifest = given or Manifest(name="start")
        return replace(manifest, training=replace(manifest.training, total_steps=_ENDLESS_STEPS))


def measure_starts(request: StartRequest, given: Manifest | None, json_file: Path | None, console: Console) -> None:
    """Measure, show, write down. Raises LowcommError, and KeyboardInterrupt when somebody wants an end."""
    request.check()
    manifest = request.manifest(given)
    with tempfile.TemporaryDirectory(prefix="lcn-") as name, Interrupts() as interrupts:
        folder = Path(name)
        rounds: dict[str, list[Milestones]] = {_BARE: [], _FIRST: []}
        for round_ in range(request.rounds):
            bare, first = _alone(folder / f"first{round_}", manifest, interrupts)
            rounds[_BARE].append(bare)
            rounds[_FIRST].append(first)
            console.print(
                f"round {round_ + 1} of {request.rounds}, alone: first step {_cell(bare.first_step_s)} s bare, "
                f"{_cell(first.first_step_s)} s in a node",
                style="dim", highlight=False,
            )  # fmt: skip
        late = f"{_LATE}, {request.line_words}" if request.line else _LATE
        rounds[late] = _late(folder / "swarm", manifest, request, interrupts, console)
    console.print(_table(rounds))
    if json_file is not None:
        plain = {what: [asdict(of_round) for of_round in found] for what, found in rounds.items()}
        write_json(
            json_file, {"rounds": plain, "parameters": manifest.model.num_parameters, "line": request.line_words}
        )
        console.print(f"written to {json_file}", highlight=False)


def _alone(folder: Path, manifest: Manifest, interrupts: Interrupts) -> tuple[Milestones, Milestones]:
    """One bare loop with the machine to itself, and after it one node."""
    swarm = TrialSwarm(
        folder, manifest, most=1, threads=1, interrupts=interrupts, sets=(f"eval_every_steps={_EVAL_EVERY_STEPS}",)
    )
    begun_s = time.monotonic()
    with BareLoops(folder / "bare", swarm.workshop, 1, interrupts) as loops:
        loops.wait_for_training(_START_PATIENCE_S)
        bare = Milestones(first_step_s=time.monotonic() - begun_s)
    with swarm:
        (name,) = swarm.start(1)
        return bare, _watch(swarm, name, interrupts)


def _late(
    folder: Path, manifest: Manifest, request: StartRequest, interrupts: Interrupts, console: Console
) -> list[Milestones]:
    """One after the other joins; each of them stays."""
    found: list[Milestones] = []
    with TrialSwarm(
        folder, manifest, most=request.nodes + request.rounds, threads=1, interrupts=interrupts, line=request.line,
        sets=(f"eval_every_steps={_EVAL_EVERY_STEPS}",),
    ) as swarm:  # fmt: skip
        swarm.start(request.nodes)
        swarm.wait_for_training(_START_PATIENCE_S)
        wait(interrupts, _QUICK_S if request.is_quick else request.train_s)
        for round_ in range(request.rounds):
            (name,) = swarm.start(1)
            found.append(_watch(swarm, name, interrupts))
            console.print(
                f"round {round_ + 1} of {request.rounds}, {name} joins {len(swarm.names) - 1}: first step "
                f"{_cell(found[-1].first_step_s)} s, as good as the swarm {_cell(found[-1].swarm_loss_s)} s",
                style="dim", highlight=False,
            )  # fmt: skip
    return found


def _watch(swarm: TrialSwarm, name: str, interrupts: Interrupts) -> Milestones:
    """From now, its start, until it has taken a step and, where there are others, is as good as they are. Raises LowcommError."""
    begun_s = time.monotonic()
    moments: list[Moment] = []
    while time.monotonic() - begun_s < _JOIN_PATIENCE_S:
        moments.append(_moment(swarm.statuses(), name, time.monotonic() - begun_s))
        reached = milestones_of(moments)
        has_others = len(swarm.names) > 1
        if reached.first_step_s is not None and (reached.swarm_loss_s is not None or not has_others):
            return reached
        wait(interrupts, _LOOK_EVERY_S)
    raise LowcommError(f"{name} is not as far as it should be after {_JOIN_PATIENCE_S:.0f} s")


def _moment(statuses: Mapping[str, Status], name: str, after_s: float) -> Moment:
    others = [status.training.validation_loss for other, status in statuses.items() if other != name]
    own = statuses.get(name)
    if own is None:
        return Moment(after_s=after_s, state="")
    return Moment(
        after_s=after_s,
        state=own.state,
        steps=own.training.steps,
        validation_loss=own.training.validation_loss,
        swarm_loss=max(others, default=0.0),
    )


def _table(rounds: Mapping[str, Sequence[Milestones]]) -> Table:
    table = Table(title="seconds after the start of the process (medians)", title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("rounds", *_COLUMNS.values()):
        table.add_column(heading, justify="right")
    for what, found in rounds.items():
        middle = medians(found)
        table.add_row(what, str(len(found)), *(_cell(middle.get(name)) for name in _COLUMNS))
    return table


def _cell(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"
