"""``bench averager``: the same state among the same number of peers, by our meetings and by hivemind's own averager, side by side."""

import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from lowcomm_node.bench.averager import (
    HIVEMIND,
    OURS,
    Round,
    RoundFigures,
    figures_of,
    needed_bytes,
    rounds_of,
)
from lowcomm_node.bench.averager_load import Order, PeerLoad, Word
from lowcomm_node.bench.requests import AveragerRequest
from lowcomm_node.bench.store import write_json
from lowcomm_node.cli.bench.counted import counted_networks, loopback_bytes
from lowcomm_node.cli.bench.peers import Peer, started_peers
from lowcomm_node.cli.swarm.sandbox import Sandbox
from lowcomm_node.settings.presets import MODELS

__all__ = ["compare_averagers"]

_OUR_PEER = ("-m", "lowcomm_node.bench.averager_meetings")
_THEIR_PEER = ("-m", "lowcomm_node.bench.averager_hivemind")
_OUR_CODINGS = ("default", "whole-bf16", "whole-fp32")
_THEIR_CODINGS = ("float16", "none")
_STRUCK_OURS, _STRUCK_THEIRS = "whole-bf16", "float16"
"""Like with like: 16 bits a number."""
_GRACE_S = 30.0
"""Beyond its own patience, until a peer that says nothing is given up."""
_VICTIM = 1
_STRIKE_AT = 0.4
"""Share of a whole round's bytes, or of its time where nobody counts, after which one peer is killed."""
_LOOK_S = 0.05
_MEMORY_EVERY_S = 1.0
_COLUMNS = (
    "system",
    "coding",
    "group",
    "wall",
    "median",
    "MB per peer",
    "payload",
    "CPU s",
    "moved",
    "apart",
    "done",
    "failures",
)


def compare_averagers(request: AveragerRequest, json_file: Path | None, console: Console) -> None:
    """Measure both, one after the other, in one run. Raises LowcommError."""
    request.check()
    figures: list[RoundFigures] = []
    with counted_networks() as sandbox:
        for part in (_ours, _theirs):
            for found in part(request, sandbox, console):
                figures.append(found)
                console.print(" ".join(_cells(found)), style="dim", highlight=False)
    console.print(_table(figures, request))
    console.print(
        "wall: until the last peer is done; median: of those that are. MB per peer: 10^6 bytes that it sent, all of them where it has a "
        "network of its own. moved: weights that the round has changed. apart: distance of the peers from their mean after the round over that before. struck: one peer is killed "
        "in the middle; done and failures are of the others.",
        style="dim", highlight=False,
    )  # fmt: skip
    if json_file is not None:
        write_json(json_file, {"request": asdict(request), "rounds": [_plain(found) for found in figures]})
        console.print(f"written to {json_file}", highlight=False)


def _ours(request: AveragerRequest, sandbox: Sandbox | None, console: Console) -> Iterator[RoundFigures]:
    with _peers(_OUR_PEER, request, is_led=False) as (peers, words):
        _introduce(peers, words)
        hall = _Hall(request, peers, sandbox)
        yield from hall.hold(rounds_of(OURS, _that_fit(_OUR_CODINGS, request, console), 2, request.rounds))
        yield hall.strike(Round(OURS, _STRUCK_OURS, 2, is_struck=True))


def _theirs(request: AveragerRequest, sandbox: Sandbox | None, console: Console) -> Iterator[RoundFigures]:
    """A peer that was killed does not come back, so each group size has peers of its own."""
    for group in request.groups:
        with _peers(_THEIR_PEER, request, is_led=True) as (peers, _):
            hall = _Hall(request, peers, sandbox)
            yield from hall.hold(
                rounds_of(HIVEMIND, _that_fit(_THEIR_CODINGS, request, console), group, request.rounds)
            )
            yield hall.strike(Round(HIVEMIND, _STRUCK_THEIRS, group, is_struck=True))


def _that_fit(codings: Sequence[str], request: AveragerRequest, console: Console) -> list[str]:
    """Those for which all peers together have memory here; the ones in 16 bits are tried in any case."""
    found = []
    parameters = MODELS[request.model].num_parameters
    own = sum(
        process.memory_info().rss for process in psutil.Process().children()
    )  # peers that hold their weights already
    free = psutil.virtual_memory().available + own
    for coding in codings:
        needed = needed_bytes(coding, request.peers, parameters)
        if needed <= free or coding in (_STRUCK_OURS, _STRUCK_THEIRS):
            found.append(coding)
            continue
        console.print(
            f"{coding} is left out: {request.peers} peers take about {needed / 2**30:.0f} GiB for it, and there are {free / 2**30:.0f} GiB",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    return found


@contextmanager
def _peers(
    program: Sequence[str], request: AveragerRequest, *, is_led: bool
) -> Iterator[tuple[list[Peer], list[Word]]]:
    with tempfile.TemporaryDirectory(prefix="lcn-", ignore_cleanup_errors=True) as folder:
        places = [Path(folder) / str(index) for index in range(request.peers)]
        for place in places:
            place.mkdir(mode=0o700)
        loads = [
            PeerLoad(model=request.model, index=index, folder=str(place), threads=request.threads)
            for index, place in enumerate(places)
        ]
        with started_peers(program, loads, is_led=is_led) as found:
            yield found


def _introduce(peers: Sequence[Peer], words: Sequence[Word]) -> None:
    """0 dials 1, 2 dials 3, and so on."""
    diallers = peers[::2]
    for dialler, answerer in zip(diallers, words[1::2], strict=True):
        dialler.order(Order(what="know", partner=answerer.where))
    for dialler in diallers:
        dialler.ready()


class _Hall:
    """Peers that have come together, and the clock."""

    def __init__(self, request: AveragerRequest, peers: Sequence[Peer], sandbox: Sandbox | None) -> None:
        self._request = request
        self._peers = peers
        self._sandbox = sandbox
        self._drifts = 0
        self._memory_bytes = 0
        self._whole: dict[str, tuple[int | None, float]] = {}
        """Bytes and seconds of the last round of each coding."""

    def hold(self, rounds: Sequence[Round]) -> Iterator[RoundFigures]:
        """One after the other; yields what is to be reported."""
        for round_ in rounds:
            figures = self._hold(round_)
            if round_.is_measured:
                yield figures

    def strike(self, round_: Round) -> RoundFigures:
        """The last one: a peer is killed when a part of what usually goes over the network has gone."""
        usual_bytes, usual_s = self._whole[round_.coding]
        before, begun_s = loopback_bytes(self._sandbox), time.monotonic()

        def is_time() -> bool:
            now = loopback_bytes(self._sandbox)
            if before is None or now is None or usual_bytes is None:
                return time.monotonic() - begun_s >= _STRIKE_AT * usual_s
            return now - before >= _STRIKE_AT * usual_bytes

        return self._hold(round_, is_time)

    def _hold(self, round_: Round, is_time: Callable[[], bool] | None = None) -> RoundFigures:
        request, peers = self._request, self._peers
        self._drifts += 1
        order = Order(
            what="drift", seed=self._drifts, coding=round_.coding, group=round_.group, patience_s=request.patience_s
        )
        for peer in peers:
            peer.order(order)
        before = [peer.ready() for peer in peers]
        cpu_s, num_bytes = [peer.cpu_s() for peer in peers], loopback_bytes(self._sandbox)
        begun_s = time.monotonic()
        for peer in peers:
            peer.order(Order(what="round", coding=round_.coding, group=round_.group, patience_s=request.patience_s))
        until_s = begun_s + request.patience_s + _GRACE_S
        killed = -1
        with self._weighed():
            if is_time is not None:
                while not is_time() and time.monotonic() < until_s:
                    time.sleep(_LOOK_S)
                peers[_VICTIM].kill()
                killed = _VICTIM
            words = [None if index == killed else peer.word(until_s) for index, peer in enumerate(peers)]
        wall_s, sent = time.monotonic() - begun_s, loopback_bytes(self._sandbox)
        figures = figures_of(
            round_,
            words,
            before,
            wall_s=wall_s,
            num_bytes=sent - num_bytes if sent is not None and num_bytes is not None else None,
            cpu_s=sum(peer.cpu_s() - cpu_s[index] for index, peer in enumerate(peers) if index != killed),
            memory_bytes=self._memory_bytes,
            killed=killed,
        )
        self._whole[round_.coding] = (
            None if figures.bytes_per_peer is None else int(figures.bytes_per_peer * len(peers)),
            wall_s,
        )
        return figures

    @contextmanager
    def _weighed(self) -> Iterator[None]:
        """Memory of all peers, from time to time."""
        over = threading.Event()

        def weigh() -> None:
            while not over.wait(_MEMORY_EVERY_S):
                self._memory_bytes = max(self._memory_bytes, sum(peer.memory_bytes() for peer in self._peers))

        weighing = threading.Thread(target=weigh, daemon=True)
        weighing.start()
        try:
            yield
        finally:
            over.set()
            weighing.join()


def _plain(found: RoundFigures) -> dict[str, object]:
    """JSON has no NaN."""
    plain = asdict(found)
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain.items()}


def _cells(found: RoundFigures) -> tuple[str, ...]:
    def megabytes(num_bytes: float | None) -> str:
        return "" if num_bytes is None else f"{num_bytes / 1e6:.1f}"

    failures = ", ".join(f"{count} {reason}" for reason, count in found.failures.items())
    groups = "/".join(f"{count}x{size}" for size, count in sorted(found.groups.items()))
    return (
        found.side,
        found.coding + (", struck" if found.is_struck else ""),
        str(found.group),
        f"{found.wall_s:.1f} s",
        "" if math.isnan(found.median_s) else f"{found.median_s:.1f} s",
        megabytes(found.bytes_per_peer),
        megabytes(found.payload_per_peer),
        f"{found.cpu_s:.1f}",
        "" if math.isnan(found.moved_share) else f"{found.moved_share:.0%}",
        "" if math.isnan(found.spread_ratio) else f"{found.spread_ratio:.3f}",
        f"{found.finished} in {groups}" if groups else str(found.finished),
        failures,
    )


def _table(figures: Sequence[RoundFigures], request: AveragerRequest) -> Table:
    title = (
        f"{MODELS[request.model].num_parameters:,} parameters, {request.peers} peers, {request.threads} thread each; memory of all peers "
        f"at most {max(found.memory_bytes for found in figures) / 2**30:.1f} GiB"
    )
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(_COLUMNS):
        table.add_column(column, justify="right" if 1 < index < len(_COLUMNS) - 1 else "left", no_wrap=True)
    for found in figures:
        table.add_row(*_cells(found))
    return table
