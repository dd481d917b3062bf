"""An estimate as people read it: what is asked for, what it costs a day and a month, what is assumed, and what to change."""

import math
from collections.abc import Iterator

from lowcomm_node.cli.plan.estimate import Estimate
from lowcomm_node.cli.words import amount, duration, printable
from lowcomm_node.core.cost_advice import Whose
from lowcomm_node.core.costs import DAY_S, MONTH_DAYS, Traffic, Weight

__all__ = ["print_estimate", "rows_of"]

Row = tuple[str, str, str, str]
"""What, a day, a month, a note. One value that is of no day stands in the second place."""
_WHERE = {Whose.SETTINGS: "your config.toml", Whose.MANIFEST: "the run's manifest, before it begins"}
_FEW_DAYS = 0.1


def print_estimate(estimate: Estimate) -> None:
    """Three blocks on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for title, rows in rows_of(estimate):
        table = Table.grid(padding=(0, 2))
        for _ in range(3):
            table.add_column(no_wrap=True)
        table.add_column(overflow="fold", style="dim")
        console.print(Text(title, style="bold"))
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        console.print(table)
        console.print()
    console.print(Text("suggestions", style="bold"))
    for advice in estimate.advice:
        console.print(Text(f"  {printable(advice.why)}:"), soft_wrap=True)
        console.print(Text(f"    {advice.line}", style="green").append(f"   # in {_WHERE[advice.whose]}", style="dim"))
    if not estimate.advice:
        console.print("  none: nothing here stands in the way")


def rows_of(estimate: Estimate) -> Iterator[tuple[str, list[Row]]]:
    """Each block's title and rows."""
    yield f"{estimate.run_name} ({estimate.run_id[:12]})", list(_run(estimate))
    yield "the line, each way: as much is sent as received", list(_line(estimate))
    yield "the machine", list(_machine(estimate))


def _run(estimate: Estimate) -> Iterator[Row]:
    costs, rate = estimate.costs, estimate.around.steps_per_s
    yield "  model", f"{amount(estimate.parameters)} parameters", "", f"{estimate.tokens_per_step:,} tokens a step"
    how = (
        "as given"
        if estimate.pace is None
        else f"measured on {estimate.pace.device}, a batch in {estimate.pace.micro_batches}"
    )
    devices = estimate.device.count(",") + 1
    if devices > 1:
        how += f", the first of {devices} devices, each of which takes a batch"
    pace = f"{devices * rate * estimate.tokens_per_step:,.0f} tokens/s, {how}"
    yield "  pace", f"{rate:.3g} steps/s", "", pace
    yield (
        "  schedule",
        _days(costs.days),
        "",
        f"{estimate.total_steps:,} steps, if the average node is as fast as this one",
    )
    if estimate.nodes:
        tokens = amount(estimate.nodes * estimate.total_steps * estimate.tokens_per_step)
        moved = _bytes(estimate.nodes * costs.run_bytes)
        yield (
            f"  {estimate.nodes} nodes",
            f"{tokens} tokens",
            "",
            f"in the whole run, for {moved} over all their lines, each way",
        )


def _line(estimate: Estimate) -> Iterator[Row]:
    costs, around = estimate.costs, estimate.around
    usual = costs.usual
    yield (
        "",
        "a day",
        "a month",
        f"a month is {MONTH_DAYS} days" + ("; the run is over sooner" if costs.days < 1 else ""),
    )
    started = usual.meetings_per_day
    yield (
        "  meetings started",
        f"{started:,.0f}",
        f"{MONTH_DAYS * started:,.0f}",
        "at most; as many of others are answered (assumed)",
    )
    for weight in estimate.weights:
        yield f"  {weight.stream}", *_both(usual.payload_per_day[weight.stream]), _coding(estimate, weight)
    heads = max(weight.framing.both for weight in estimate.weights)
    yield (
        "  framing",
        *_both(usual.framing_per_day),
        f"headers, verdict, confirmation: {heads:,} bytes a meeting, both ends",
    )
    times = f"{around.joins_per_day:g} a day of {_bytes(around.state_bytes)} at most, given and fetched (assumed)"
    yield "  states", *_both(usual.states_per_day), times
    yield "  together", *_both(usual.bytes_per_day), "as line_bytes_total and bandwidth.monthly_gb count it, each way"
    if usual.bytes_per_day < usual.wished_per_day:
        wished = f"the run asks for {_bytes(usual.wished_per_day)} a day"
        yield "", "", "", f"{wished}; {_why_less(usual)}"
    if around.last_ratio:
        share = f"in the last {100 * around.last_ratio:g} % of the run ({_days(costs.last_days)}) meetings are dense"
        yield "  at the end", _bytes(costs.last.bytes_per_day), "", share
    yield "  whole run", _bytes(costs.run_bytes), "", f"each way, in {_days(costs.days)}"
    yield (
        "  not in it",
        "",
        "",
        "offers to who is busy, failed meetings; headers of TCP and TLS, some 5 %",
    )
    if estimate.has_roles:
        dense = "in AB-training's stretches meetings are in role: whole factors, each at most what one at the end takes"
        yield "", "", "", f"{dense}; and frozen factors, once an epoch"
    yield "  the DHT", *_both(costs.dht_per_day), "besides, as seen between 4 nodes; no node counts or caps it"
    mean = f"{usual.bytes_per_day * 8 / DAY_S / 1e3:,.3g} kbit/s"
    if not costs.meeting_s:
        yield "  on average", mean, "", "what the line can do is not known: --up and --down, or --peers to measure it"
        return
    rate = f"{_mbit(around.up_mbit_per_s)} up, {_mbit(around.down_mbit_per_s)} down, partners alike"
    yield "  on average", mean, "", f"a usual meeting takes {costs.meeting_s:.2g} s of a line with {rate}"
    used = usual.crowding / max(1.0, usual.crowding, usual.stretch)
    yield "  in use", f"{100 * used:.3g} %", "", "of the time in which it is open"


def _why_less(usual: Traffic) -> str:
    if usual.stretch >= max(1.0, usual.crowding):
        return f"bandwidth.monthly_gb makes its periods {usual.stretch:.3g} times as long"
    return f"the line makes its periods {usual.crowding:.3g} times as long"


def _machine(estimate: Estimate) -> Iterator[Row]:
    room, around, costs = estimate.room, estimate.around, estimate.costs
    how = "an estimate" if estimate.pace is None else "measured; daemon and p2pd take some 400 MB besides"
    yield "  memory", _bytes(room.memory_bytes), "", f"{how}; {_bytes(room.memory_free_bytes)} {estimate.memory_name}"
    disk = f"{room.keep} checkpoints, one being written, downloads; {_bytes(room.disk_free_bytes)} are free"
    yield "  disk", _bytes(room.disk_bytes), "", disk
    if room.checkpoint_every_s:
        written = room.state_bytes * 3600 * around.hours_per_day * around.training_share / room.checkpoint_every_s
        yield (
            "  written",
            *_both(written),
            f"a checkpoint every {duration(room.checkpoint_every_s)}, {_bytes(room.state_bytes)} at most",
        )
    hours = around.hours_per_day * around.training_share
    yield "  hours of training", f"{hours:.3g}", f"{MONTH_DAYS * hours:,.0f}", "--hours-per-day, less owner.quiet_hours"
    if estimate.power is None:
        yield "  energy", "not known", "", "this machine does not say what it takes: give --watts"
        return
    kwh = costs.kwh_per_day
    taken = f"{estimate.power.watts:.3g} W of {estimate.power.of} while it trains; nothing else that the machine takes is in it"
    if estimate.power.of == "--watts":
        taken = f"{estimate.power.watts:g} W, as given"
    yield "  energy", f"{kwh:.2g} kWh", f"{MONTH_DAYS * kwh:.2g} kWh", taken
    if around.price_per_kwh:
        money, name = costs.money_per_day, f" {estimate.currency}".rstrip()
        price = f"at {around.price_per_kwh:g}{name} a kWh"
        yield "  money", f"{money:.2f}{name}", f"{MONTH_DAYS * money:.2f}{name}", price


def _coding(estimate: Estimate, weight: Weight) -> str:
    flow = weight.payload
    each = (
        f"{flow.sent:,} and {flow.received:,} bytes" if flow.sent != flow.received else f"{flow.sent:,} bytes each way"
    )
    return f"{estimate.codings[weight.stream]}, every {weight.every_steps:,} steps; {each} a meeting"


def _both(per_day: float) -> tuple[str, str]:
    return _bytes(per_day), _bytes(MONTH_DAYS * per_day)


def _bytes(number: float) -> str:
    return f"{amount(number)}B" if number >= 1000 else f"{number:.0f} B"


def _mbit(rate: float) -> str:
    return f"{rate:.3g} Mbit/s" if rate else "an unknown rate"


def _days(days: float) -> str:
    if math.isinf(days):
        return "never"
    return f"{days:,.3g} days" if days >= _FEW_DAYS * 100 else duration(days * DAY_S)
