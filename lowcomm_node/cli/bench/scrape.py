"""``bench scrape``: what a scrape takes, and, by wish, what being scraped does to the training of a real node."""

import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path

from rich.console import Console

from lowcomm_node.bench.scrape import MOST_GPUS, measure_scrapes
from lowcomm_node.bench.side_by_side import Block, effect_of, measure_blocks
from lowcomm_node.bench.store import write_json
from lowcomm_node.cli.swarm.launch import Workshop, node_environment
from lowcomm_node.cli.swarm.ports import choose_ports
from lowcomm_node.cli.swarm.processes import NodeProcess
from lowcomm_node.daemon.control import ControlClient, NodeSilentError, NoNodeError
from lowcomm_node.errors import ConfigError, LowcommError
from lowcomm_node.settings.manifest import Manifest, TrainingConfig
from lowcomm_node.settings.node import DeviceSettings, NodeSettings

__all__ = ["ScrapeRequest", "show_scrapes"]

_USUAL_S = 15.0
"""As deploy/prometheus/prometheus.yml."""
_EVERY_S = (0.0, _USUAL_S, 1.0)
_BLOCK_S = 30.0
_WARM_UP_S = 20.0
_START_S = 120.0
_END_S = 60.0
_ANSWER_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeRequest:
    """The command line of ``bench scrape``."""

    scrapes: int = 200
    minutes: float = 0.0
    """How long a node trains for the comparison; 0: there is none."""
    threads: int = 0
    """Torch's CPU threads in that node; 0: its own choice."""

    @property
    def turns(self) -> int:
        return int(self.minutes * 60 / (_BLOCK_S * len(_EVERY_S)))

    def check(self) -> None:
        """Raises ConfigError."""
        least = _BLOCK_S * len(_EVERY_S) / 60
        if self.minutes and self.turns < 1:
            raise ConfigError(f"--minutes {self.minutes:g} is not allowed; allowed: 0, or at least {least:g}")


def show_scrapes(request: ScrapeRequest, manifest: Manifest | None, json_file: Path | None, console: Console) -> None:
    """Measure what was asked for and say it. ``manifest``: of the node that trains. Raises LowcommError."""
    request.check()
    costs = [measure_scrapes(request.scrapes, gpus) for gpus in (0, MOST_GPUS)]
    for cost in costs:
        middle_s = statistics.median(cost.seconds)
        with_gpus = f" with {cost.gpus} GPUs" if cost.gpus else ""
        console.print(
            f"a node{with_gpus}: {cost.series} series, {cost.page_bytes / 1000:.1f} kB a page; {1000 * middle_s:.2f} ms of one "
            f"core a scrape (median of {len(cost.seconds)}; at most {1000 * max(cost.seconds):.2f} ms), "
            f"{middle_s / _USUAL_S:.3%} when scraped every {_USUAL_S:.0f} s",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    blocks: list[Block] = []
    if request.turns:
        blocks = _blocks(request, manifest or _usual_manifest(), console)
        _show_effects(blocks, console)
    if json_file is not None:
        write_json(json_file, {"pages": [asdict(cost) for cost in costs], "blocks": [asdict(b) for b in blocks]})
        console.print(f"written to {json_file}", highlight=False)


def _usual_manifest() -> Manifest:
    """A run that does not end meanwhile."""
    return Manifest(name="scraped", training=TrainingConfig(total_steps=1_000_000))


def _blocks(request: ScrapeRequest, manifest: Manifest, console: Console) -> list[Block]:
    """Train with one real node, and scrape it by turns from here."""
    with tempfile.TemporaryDirectory(prefix="lowcomm-scrape-") as folder:
        workshop = Workshop(
            Path(folder), manifest, settings=NodeSettings(device=DeviceSettings(threads=request.threads))
        )
        (ports,) = choose_ports(1, None)
        place = workshop.place("n0", ports)
        # Neither validation nor checkpoints: they come once in a while, and would be taken for an effect of what comes in that block.
        quiet = [word for key in ("eval_every_steps=0", "checkpoint.every_s=0") for word in ("--set", key)]
        node = NodeProcess([*workshop.command(place, ()), *quiet], place.log_file, node_environment())
        try:
            with ControlClient(place.directory) as client:
                trainee = _Trainee(node, client, ports.metrics)
                trainee.wait_for_training()
                time.sleep(_WARM_UP_S)
                blocks = []
                for block in measure_blocks(
                    turns=request.turns, every_s=_EVERY_S, block_s=_BLOCK_S, steps=trainee.steps, disturb=trainee.scrape,
                    clock=time.monotonic, sleep=time.sleep,
                ):  # fmt: skip
                    blocks.append(block)
                    how = f"{block.disturbances} scrapes" if block.every_s else "not scraped"
                    console.print(
                        f"turn {block.turn + 1} of {request.turns}, {how}: {block.steps_per_s:.4f} steps/s",
                        style="dim", highlight=False,
                    )  # fmt: skip
            return blocks
        finally:
            node.terminate()
            _wait_for_end(node)
            node.kill_all()


class _Trainee:
    """The node that trains, as its owner sees it."""

    def __init__(self, node: NodeProcess, client: ControlClient, port: int) -> None:
        self._node = node
        self._client = client
        self._port = port
        self._steps = 0

    def wait_for_training(self) -> None:
        """Raises LowcommError when the node ends, or takes no step in time."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if self._node.exit_code is not None:
                raise LowcommError("the node has ended: " + " / ".join(self._node.log_tail(3)))
            try:
                if self._client.status().training.steps:
                    return
            except (NoNodeError, NodeSilentError):
                pass
            time.sleep(0.5)
        raise LowcommError(f"the node does not train within {_START_S:g} s")

    def steps(self) -> int:
        """So far, as the node has said last: one that is silent for a while is asked again. Raises LowcommError when it has ended."""
        try:
            self._steps = self._client.status().training.steps
        except NodeSilentError:
            if self._node.exit_code is not None:
                raise
        return self._steps

    def scrape(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_S)
        connection.request("GET", "/metrics")
        connection.getresponse().read()
        connection.close()


def _wait_for_end(node: NodeProcess) -> None:
    until = time.monotonic() + _END_S
    while node.exit_code is None and time.monotonic() < until:
        time.sleep(0.1)


def _show_effects(blocks: list[Block], console: Console) -> None:
    for every_s in _EVERY_S[1:] + _EVERY_S[:1]:
        effect = effect_of(blocks, every_s)
        if not effect.ratios:
            continue
        what = f"scraped every {every_s:g} s" if every_s else "not scraped, against the turn before"
        console.print(
            f"{what}: {effect.middle:.4f} of the steps (median of {len(effect.ratios)}; {min(effect.ratios):.4f} to "
            f"{max(effect.ratios):.4f}; standard error of the mean {effect.standard_error:.4f})",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
