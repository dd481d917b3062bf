"""``bench scaling``: a swarm of real nodes that grows on one machine, and what its size costs each of them."""

import contextlib
import http.client
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from lowcomm_node.bench.scaling import SizeFigures, SizeReading, dht_requests, figures_between, growth
from lowcomm_node.bench.store import write_json
from lowcomm_node.bench.trial import SMALL, make_manifest, strict
from lowcomm_node.cli.bench.ballast import Ballast
from lowcomm_node.cli.bench.trial_swarm import TrialSwarm, wait
from lowcomm_node.cli.periods import periods_text
from lowcomm_node.cli.swarm.fleet import Stage
from lowcomm_node.cli.swarm.interrupts import Interrupts
from lowcomm_node.cli.swarm.processes import Part
from lowcomm_node.errors import ConfigError, LowcommError
from lowcomm_node.settings.manifest import Manifest

__all__ = ["ScalingRequest", "measure_scaling"]

_SIZES = (2, 4, 8, 16, 32, 64)
_START_PATIENCE_S = 300.0
_SETTLE_S = 12.0
"""All have looked into the directory once more, and have found the new ones."""
_QUICK_S = 5.0
_ANSWER_S = 10.0
_MAX_PAGE_BYTES = 1 << 22
_ENDLESS_STEPS = 20_000_000
_ROOM = 1.2
"""A node that starts takes so many times what one that trains has."""
_EXPECTED_MIB = 450.0
_EVERY_STEPS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRequest:
    """The command line of ``bench scaling``."""

    most: int = 32
    window_s: float = 40.0
    every_steps: int = 0
    """Own steps between two meetings; 0: 40, or the manifest's where there is one."""
    is_quick: bool = False

    def check(self) -> None:
        """Raises ConfigError."""
        if self.most not in _SIZES:
            raise ConfigError(f"--most {self.most} is not allowed; allowed: {', '.join(map(str, _SIZES))}")
        if self.window_s < 1:
            raise ConfigError(f"--window {self.window_s:g} is not allowed; allowed: at least 1 second")
        if self.every_steps < 0:
            raise ConfigError(f"--every {self.every_steps} is not allowed; allowed: at least 1")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the swarm, one after the other."""
        return tuple(size for size in _SIZES if size <= self.most)

    def manifest(self, given: Manifest | None) -> Manifest:
        """A run that does not end meanwhile."""
        manifest = given or make_manifest(SMALL, {"meeting.params_every_steps": _EVERY_STEPS})
        meeting = manifest.meeting
        if self.every_steps:
            meeting = replace(meeting, params_every_steps=self.every_steps)
        return replace(manifest, training=replace(manifest.training, total_steps=_ENDLESS_STEPS), meeting=meeting)


def measure_scaling(request: ScalingRequest, given: Manifest | None, json_file: Path | None, console: Console) -> None:
    """Measure, show, write down. Raises LowcommError, and KeyboardInterrupt when somebody wants an end."""
    request.check()
    manifest = request.manifest(given)
    console.print(
        f"up to {request.most} nodes, {manifest.model.num_parameters:,} parameters, {periods_text(manifest)}; where they are fewer, "
        "processes that compute for nobody take the others' shares of the processor",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    figures: list[SizeFigures] = []
    with (
        tempfile.TemporaryDirectory(prefix="lcn-") as folder,
        Interrupts() as interrupts,
        TrialSwarm(
            Path(folder) / "swarm", manifest, most=request.most, threads=1, interrupts=interrupts,
            sets=("eval_every_steps=0",),
        ) as swarm,
        Ballast() as ballast,
    ):  # fmt: skip
        for size in request.sizes:
            has_room = _has_room(size - len(swarm.names), figures)
            if not has_room:
                console.print(f"no {size} nodes: their memory is not free here", highlight=False)
                break
            figures.append(_measure(swarm, ballast, size, request, interrupts, console))
    console.print(_table(figures))
    if json_file is not None:
        plain = {"periods": periods_text(manifest), "parameters": manifest.model.num_parameters}
        write_json(json_file, strict(plain | {"sizes": [asdict(found) for found in figures]}))
        console.print(f"written to {json_file}", highlight=False)


def _has_room(more: int, figures: Sequence[SizeFigures]) -> bool:
    each_mib = figures[-1].memory_mib if figures else _EXPECTED_MIB
    return bool(psutil.virtual_memory().available > _ROOM * more * each_mib * (1 << 20))


def _measure(
    swarm: TrialSwarm, ballast: Ballast, size: int, request: ScalingRequest, interrupts: Interrupts, console: Console
) -> SizeFigures:
    ballast.carry(0)  # who starts has the whole machine
    begun_s = time.monotonic()
    swarm.start(size - len(swarm.names))
    swarm.wait_for_training(_START_PATIENCE_S)
    started_s = time.monotonic() - begun_s
    ballast.carry(request.most - size)
    wait(interrupts, _SETTLE_S)
    before = _read(swarm)
    wait(interrupts, _QUICK_S if request.is_quick else request.window_s)
    found = figures_between(before, _read(swarm), sum(swarm.memory().values()))
    console.print(
        f"{size} nodes, after {started_s:.0f} s: {found.meetings_per_min:.1f} meetings a minute and node, daemon "
        f"{found.daemon_ms_per_s:.1f} ms a second",
        style="dim", highlight=False,
    )  # fmt: skip
    return found


def _read(swarm: TrialSwarm) -> SizeReading:
    """Raises LowcommError when not all answer."""
    statuses = swarm.statuses()
    reading = swarm.reading(statuses)
    requests = [dht_requests(_page(place.ports.metrics)) for place in swarm.fleet.places(Stage.RUNNING).values()]
    return SizeReading(
        at_s=reading.at_s,
        nodes=len(swarm.names),
        daemon_s=reading.processor_s[Part.DAEMON.value],
        p2pd_s=reading.processor_s[Part.P2PD.value],
        trainer_s=reading.processor_s[Part.TRAINER.value],
        exchange_s=reading.exchange_s,
        meeting_ends=sum(status.meetings.completed for status in statuses.values()),
        failed=reading.failed,
        sent_bytes=reading.sent_bytes,
        dht_gets=sum(gets for gets, _ in requests),
        dht_puts=sum(puts for _, puts in requests),
        steps=sum(status.training.steps for status in statuses.values()),
    )


def _page(port: int) -> bytes:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)) as connection:
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read(_MAX_PAGE_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise LowcommError(f"a node does not show its metrics: {error}") from error


def _table(figures: Sequence[SizeFigures]) -> Table:
    """A row for each size, and the last over the first."""
    columns = {
        "meetings": ("meetings_per_min", 1), "failed": ("failed_per_min", 1), "steps/s": ("steps_per_s", 2),
        "kB/meeting": ("kb_per_meeting", 1), "daemon ms/meeting": ("daemon_ms_per_meeting", 1),
        "p2pd ms/meeting": ("p2pd_ms_per_meeting", 1), "trainer ms/meeting": ("exchange_ms_per_meeting", 1),
        "daemon ms/s": ("daemon_ms_per_s", 1), "p2pd ms/s": ("p2pd_ms_per_s", 1), "DHT gets": ("dht_gets_per_min", 1),
        "DHT puts": ("dht_puts_per_min", 1), "MiB": ("memory_mib", 0),
    }  # fmt: skip
    table = Table(title="for each node (a minute where nothing else is said)", title_justify="left", title_style="bold")
    for heading in ("nodes", *columns):
        table.add_column(heading, justify="right")
    rows = [asdict(found) for found in figures]
    for row in rows:
        table.add_row(str(row["nodes"]), *(_cell(row[field], digits) for field, digits in columns.values()))
    if len(rows) > 1:
        sizes = [found.nodes for found in figures]
        ratios = (growth(sizes, [row[field] for row in rows]) for field, _ in columns.values())
        table.add_row(f"{max(sizes)} over {min(sizes)}", *(_cell(ratio, 2) for ratio in ratios), style="bold")
    return table


def _cell(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"
