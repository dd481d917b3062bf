"""``bench link``: two processes with the link of meetings between them, on loopback and over an emulated line."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lowcomm_node.bench.link_load import EndResult, LinkLoad, Whereabouts
from lowcomm_node.bench.link_report import CapFigures, MeetingFigures, cap_figures, meeting_figures
from lowcomm_node.bench.store import write_json
from lowcomm_node.cli.swarm.lines import LineShape
from lowcomm_node.cli.swarm.sandbox import Room
from lowcomm_node.cli.swarm.shaping import shaped_rooms
from lowcomm_node.errors import ConfigError, LowcommError

__all__ = ["CARRIERS", "LinkRequest", "Place", "measure_links", "run_ends", "shaped_place"]

CARRIERS = ("tcp", "grpc-plain", "grpc", "libp2p")
"""Bare TCP first: it is the measure of the others."""
_LOOPBACK_ONLY = frozenset({"grpc-plain"})
"""Nodes speak plainly to no other computer."""
_CAPPED = ("grpc", "libp2p")
_LOOPBACK = "127.0.0.1"
_PATIENCE_S = 600.0
_END_PATIENCE_S = 5.0
_PROBE_EVERY_S = 0.1
_IDLE_PROBES = 10
_LEAST_PAYLOAD_S = 2.0
"""For a rate to be seen in it."""
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRequest:
    """The command line of ``bench link``."""

    megabytes: float = 10.0
    """Payload that each end sends in one meeting."""
    meetings: int = 3
    """Over one connection, in each round."""
    rounds: int = 2
    """So many connections by each carrier, in turns."""
    line: LineShape | None = None
    line_words: str = ""
    cap_mbit: float = 0.0
    seed: int = 0
    carriers: tuple[str, ...] = CARRIERS

    def check(self) -> None:
        """Raises ConfigError."""
        if not 0.01 <= self.megabytes <= 1000:
            raise ConfigError(f"--mb {self.megabytes:g} is not allowed; allowed: 0.01 to 1000")
        if self.meetings < 2 or self.rounds < 1:
            raise ConfigError("--meetings must be at least 2, the first one connects, and --rounds at least 1")
        if self.cap_mbit and self.cap_mbit < 0.5:
            raise ConfigError(f"--cap-mbit {self.cap_mbit:g} is not allowed; allowed: at least 0.5")
        for rate_mbit in (self.cap_mbit, min(self.line.up_mbit, self.line.down_mbit) if self.line is not None else 0.0):
            if self.megabytes * 8 < _LEAST_PAYLOAD_S * rate_mbit:
                least = f"at least {_LEAST_PAYLOAD_S * rate_mbit / 8:g}, {_LEAST_PAYLOAD_S:g} s of {rate_mbit:g} Mbit/s"
                raise ConfigError(f"--mb {self.megabytes:g} is not allowed; allowed: {least}")
        if unknown := [carrier for carrier in self.carriers if carrier not in CARRIERS]:
            raise ConfigError(f"--carriers {unknown[0]} is not allowed; allowed: {', '.join(CARRIERS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the two ends are."""

    words: str
    rooms: tuple[Room, Room] | None
    rate_mbit: float | None

    def carriers(self, wanted: tuple[str, ...]) -> list[str]:
        """Those of the wanted ones that there are here."""
        return [carrier for carrier in wanted if self.rooms is None or carrier not in _LOOPBACK_ONLY]

    def host(self, end: int) -> str:
        return _LOOPBACK if self.rooms is None else self.rooms[end].host

    def entered(self, end: int) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.rooms is None else self.rooms[end].entered()


def measure_links(request: LinkRequest, json_file: Path | None, console: Console) -> None:
    """Measure all that was asked for, show it, and write it down. Raises LowcommError."""
    request.check()
    meetings: list[MeetingFigures] = []
    caps: list[CapFigures] = []
    for place in _places(request):
        meetings += _measure_meetings(request, place, console)
        if request.cap_mbit or place.rate_mbit:
            caps += _measure_caps(request, place, console)
    console.print(_meeting_table(meetings))
    console.print(
        f"a meeting: offer {request.megabytes / 2:g} MB, answer {request.megabytes:g} MB, close {request.megabytes / 2:g} MB, "
        "one after the other; efficiency: payload bits over time and rate",
        style="dim", highlight=False,
    )  # fmt: skip
    if caps:
        console.print(_cap_table(caps))
    if json_file is not None:
        write_json(json_file, {"meetings": [asdict(row) for row in meetings], "caps": [asdict(row) for row in caps]})
        console.print(f"written to {json_file}", highlight=False)


def _places(request: LinkRequest) -> Iterator[Place]:
    yield Place(words="loopback", rooms=None, rate_mbit=None)
    if request.line is not None:
        with shaped_place(request.line, request.line_words, seed=request.seed) as place:
            yield place


@contextlib.contextmanager
def shaped_place(line: LineShape, words: str, *, seed: int) -> Iterator[Place]:
    """Two ends, each at such a line. Raises ShapingError."""
    with shaped_rooms([line, line], seed=seed) as (_, (one, other)):
        yield Place(words=words, rooms=(one, other), rate_mbit=min(line.up_mbit, line.down_mbit))


def _measure_meetings(request: LinkRequest, place: Place, console: Console) -> list[MeetingFigures]:
    num_bytes = int(request.megabytes * _MEGABYTE)
    results: dict[str, list[EndResult]] = {carrier: [] for carrier in place.carriers(request.carriers)}
    for round_ in range(request.rounds):
        for carrier, so_far in results.items():
            load = LinkLoad(
                carrier=carrier,
                host=place.host(0),
                is_answerer=False,
                offer_bytes=num_bytes // 2,
                answer_bytes=num_bytes,
                close_bytes=num_bytes // 2,
                meetings=request.meetings,
            )
            dialler, _ = run_ends(place, load, replace(load, host=place.host(1), is_answerer=True))
            so_far.append(dialler)
            seconds = ", ".join(f"{second:.3g}" for second in dialler.meetings_s)
            console.print(f"{place.words}, {carrier}, {round_ + 1}/{request.rounds}: {seconds} s", highlight=False)
    figures: list[MeetingFigures] = []
    for carrier, of_carrier in results.items():
        if not any(len(result.meetings_s) > 1 for result in of_carrier):
            raise LowcommError(
                f"no meetings over {carrier} came about: {', '.join(of_carrier[0].failures) or 'no word why'}"
            )
        tcp_later_s = figures[0].later_s if figures and figures[0].carrier == "tcp" else None
        figures.append(
            meeting_figures(
                place.words, carrier, 2 * num_bytes, of_carrier, rate_mbit=place.rate_mbit, tcp_later_s=tcp_later_s
            )
        )
    return figures


def _measure_caps(request: LinkRequest, place: Place, console: Console) -> list[CapFigures]:
    """A one-way payload against the line, and against a cap of its sender and of its receiver; control goes the same way and back."""
    directions = {"line": place.rate_mbit or 0.0, "up": request.cap_mbit, "down": request.cap_mbit}
    figures = []
    for carrier in _CAPPED:
        if carrier not in request.carriers:
            continue
        free = LinkLoad(
            carrier=carrier,
            host=place.host(0),
            is_answerer=False,
            offer_bytes=int(request.megabytes * _MEGABYTE),
            probe_every_s=_PROBE_EVERY_S,
        )
        answerer = replace(free, host=place.host(1), is_answerer=True)
        idle, _ = run_ends(place, replace(free, offer_bytes=0, meetings=_IDLE_PROBES, probe_every_s=0.0), answerer)
        idle_s = sorted(idle.meetings_s)[len(idle.meetings_s) // 2]
        for direction, rate_mbit in directions.items():
            if not rate_mbit:
                continue
            dialler, other = run_ends(
                place,
                replace(free, up_mbit=rate_mbit if direction == "up" else 0.0),
                replace(answerer, down_mbit=rate_mbit if direction == "down" else 0.0),
            )
            if dialler.failures or not any(count for _, count in other.received):
                raise LowcommError(
                    f"{carrier}, limit {direction}: {', '.join(dialler.failures) or 'no TCP counters here'}"
                )
            figures.append(
                cap_figures(
                    place.words, carrier, direction, rate_mbit, other.received,
                    probes_s=dialler.probes_s, idle_probe_s=idle_s,
                )
            )  # fmt: skip
            console.print(
                f"{place.words}, {carrier}, limit {direction}: {figures[-1].rate_mbit:.2f} Mbit/s", highlight=False
            )
    return figures


def run_ends(place: Place, dialler: LinkLoad, answerer: LinkLoad) -> tuple[EndResult, EndResult]:
    """Both ends as processes; none is left afterwards. Raises LowcommError with what the one that failed said."""
    with _started(place, 1, answerer) as answering:
        assert answering.stdout is not None  # a pipe of our own making
        where = answering.stdout.readline()
        if not where:
            raise LowcommError(f"the answering end did not start:\n{_said(answering)}")
        with _started(place, 0, replace(dialler, peer=Whereabouts.from_json(where))) as dialling:
            try:
                output, errors = dialling.communicate(timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired:
                raise LowcommError(f"no end after {_PATIENCE_S:.0f} s") from None
            if dialling.returncode:
                raise LowcommError(f"the dialling end failed:\n{errors}")
        output_of_other, errors = answering.communicate(timeout=_END_PATIENCE_S)
        if answering.returncode:
            raise LowcommError(f"the answering end failed:\n{errors}")
    return EndResult.from_json(output.splitlines()[-1]), EndResult.from_json(output_of_other.splitlines()[-1])


@contextlib.contextmanager
def _started(place: Place, end: int, load: LinkLoad) -> Iterator["subprocess.Popen[str]"]:
    with tempfile.TemporaryDirectory(prefix="lcn-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "lowcomm_node.bench.link_end", replace(load, folder=folder).to_json()]
        with place.entered(end):
            process = subprocess.Popen(
                [sys.executable, "-m", "lowcomm_node.cli.swarm.tether", str(os.getpid()), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


def _said(process: "subprocess.Popen[str]") -> str:
    return process.communicate(timeout=_END_PATIENCE_S)[1]


def _meeting_table(rows: list[MeetingFigures]) -> Table:
    table = Table(title="meetings", title_justify="left", title_style="bold")
    for column in ("place", "carrier", "first", "later", "MiB/s", "efficiency, first", "later", "of bare TCP"):
        table.add_column(column, justify="left" if column in {"place", "carrier"} else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.place,
            row.carrier,
            f"{row.first_s:.3g} s",
            f"{row.later_s:.3g} s",
            f"{row.later_mib_per_s:.0f}" if row.later_mib_per_s >= 10 else f"{row.later_mib_per_s:.2f}",
            _share(row.first_efficiency),
            _share(row.later_efficiency),
            _share(row.of_tcp),
        )
    return table


def _cap_table(rows: list[CapFigures]) -> Table:
    table = Table(title="caps, and control beside a payload", title_justify="left", title_style="bold")
    columns = (
        "place",
        "carrier",
        "limit",
        "rate",
        "of limit",
        "busiest second",
        "control",
        "at most",
        "without payload",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in {"place", "carrier", "limit"} else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.place,
            row.carrier,
            f"{row.direction} {row.cap_mbit:g} Mbit/s",
            f"{row.rate_mbit:.2f}",
            f"{row.of_cap:.3f}",
            f"{row.most_in_a_second_mbit:.1f}",
            f"{row.probe_median_s * 1e3:.0f} ms",
            f"{row.probe_max_s * 1e3:.0f} ms",
            f"{row.idle_probe_s * 1e3:.0f} ms",
        )
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
