"""A report in words: the closing table and one honest verdict."""

from rich import box
from rich.table import Table

from lowcomm_node.cli.swarm.report import SwarmReport
from lowcomm_node.cli.swarm.view import format_bytes, format_seconds

__all__ = ["report_table", "verdict"]

_CLEAR_RATIO = 0.98
"""Less than two percent is not clearly below."""


def verdict(report: SwarmReport) -> str:
    """What the run showed and what it did not, in one sentence."""
    clauses = [*_learning(report), *_faults(report), *_chaos(report)]
    sentence = "; ".join(clauses)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _learning(report: SwarmReport) -> list[str]:
    start, end = report.val_loss_start, report.val_loss_end
    if start is None or end is None:
        reason = "the run was interrupted" if report.ended_by == "interrupted" else "no node left a state to judge"
        return [f"{reason}, so nothing is known about its last validation loss"]
    fell = "fell" if end < start * _CLEAR_RATIO else "did NOT fall clearly"
    clauses = [f"validation loss {fell} from {start:.3f} to {end:.3f}"]
    alone, consensus = report.val_loss_local_only, report.val_loss_consensus
    if alone is not None:
        how = "below" if end < alone else "NOT below"
        clauses.append(f"that is {how} the {alone:.3f} of the same nodes training alone")
    if consensus is not None and report.nodes_live > 1:
        how = "at least as good as" if consensus <= end else "WORSE than"
        clauses.append(f"the averaged model ({consensus:.3f}) is {how} the mean of the nodes")
    return clauses


def _faults(report: SwarmReport) -> list[str]:
    blocked_s = report.blocked_seconds.get("meeting", 0.0)
    clauses = [
        f"{report.meetings_half} half meetings of {report.meetings_completed}",
        "training never waited for a meeting" if blocked_s == 0 else f"training WAITED {blocked_s:.2f} s for meetings",
    ]
    if report.died:
        clauses.append(f"{report.died} nodes did NOT end in order")
    if report.leftovers:
        clauses.append(f"{len(report.leftovers)} leftovers had to be removed")
    if report.ended_by in {"stalled", "nobody left"}:
        clauses.append("the run STALLED" if report.ended_by == "stalled" else "no node was LEFT")
    return clauses


def _chaos(report: SwarmReport) -> list[str]:
    clauses = []
    if report.chaos is not None:
        chaos = report.chaos
        clauses.append(f"{sum(chaos.survived.values())} of {sum(chaos.injected.values())} faults survived")
        if chaos.lost_steps_median is not None:
            clauses.append(f"a kill cost {chaos.lost_steps_median:.0f} steps, at most {chaos.lost_steps_max}")
        if explained := sum(bool(half.explanation) for half in chaos.halves):
            clauses.append(f"{explained} half meetings are explained by kills, the sleep or a lost last word")
        clauses += [f"BROKEN: {sentence}" for sentence in chaos.broken]
    if report.calm is not None:
        calm = report.calm
        above = ", ".join(f"{name} is {by:.3f} above" for name, by in calm.above.items())
        how = f"NOT within the spread ({above})" if above else "within the spread"
        whose = "undisturbed swarms" if calm.orderly is None else "an undisturbed swarm with the same absences"
        clauses.append(
            f"losses are {how} of {whose} at as much progress and as many tokens: {calm.expected:.3f}, "
            f"at most {calm.spread:.3f} more"
        )
        if calm.orderly is not None:
            clauses.append(
                f"with as many tokens of nodes that are there all the time it is {calm.expected_present:.3f}"
            )
    return clauses


def report_table(report: SwarmReport) -> Table:
    """The figures people ask for first."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    live = f"{report.nodes_live} alive at the end, {report.killed} killed, {report.joined_late} joined late"
    table.add_row("nodes", str(report.nodes), live)
    table.add_row("training time", format_seconds(report.seconds), f"ended by: {report.ended_by}")
    progress = f"swarm progress {report.progress_end:.0f} of {report.total_steps}"
    table.add_row("steps, all nodes", f"{report.steps_total:,}", progress)
    rate = sum(report.tokens_per_second.values())
    table.add_row("tokens, all nodes", f"{report.tokens_total:,}", f"{rate:,.0f} a second")
    table.add_row("validation loss, start", _number(report.val_loss_start), "nats per token")
    table.add_row("validation loss, mean of nodes", _number(report.val_loss_end), _per_node(report))
    table.add_row("validation loss, averaged model", _number(report.val_loss_consensus), "")
    if report.val_loss_local_only is not None:
        table.add_row("validation loss, training alone", _number(report.val_loss_local_only), "same nodes, same tokens")
    if report.val_accuracy_end is not None and report.val_accuracy_consensus is not None:
        averaged = f"averaged model {report.val_accuracy_consensus:.2%}"
        table.add_row("accuracy, mean of nodes", f"{report.val_accuracy_end:.2%}", averaged)
    spreads = f"{_number(report.spread_start)} at first, {_number(report.spread_max)} at most"
    table.add_row("spread between replicas", _number(report.spread_end), spreads)
    failed = ", ".join(f"{reason} {count}" for reason, count in report.meetings_failed.items()) or "none"
    a_minute = report.meetings_completed * 60 / report.seconds if report.seconds else 0.0
    table.add_row("meetings", f"{report.meetings_completed:,}", f"{a_minute:.0f} a minute")
    table.add_row("meetings failed", f"{sum(report.meetings_failed.values()):,}", failed)
    table.add_row("meetings half", str(report.meetings_half), "")
    for stream, codecs in report.bytes_sent.items():
        for codec, count in codecs.items():
            table.add_row(f"sent, {stream} {codec}", format_bytes(count), "")
    table.add_row("sent, together", format_bytes(report.bytes_sent_total), _against_ddp(report))
    blocked = ", ".join(f"{cause} {seconds:.2f} s" for cause, seconds in sorted(report.blocked_seconds.items()))
    table.add_row("training blocked", f"{sum(report.blocked_seconds.values()):.2f} s", blocked)
    table.add_row("memory, together", format_bytes(report.memory_peak_bytes), "at most")
    return table


def _per_node(report: SwarmReport) -> str:
    losses = [(name, node.val_loss_end) for name, node in report.per_node.items()]
    return ", ".join(f"{name} {loss:.3f}" for name, loss in losses if loss is not None)


def _against_ddp(report: SwarmReport) -> str:
    if not report.bytes_sent_total or not report.ddp_bytes_equivalent:
        return ""
    factor = report.ddp_bytes_equivalent / report.bytes_sent_total
    return f"{factor:.0f} times less than DDP's {format_bytes(report.ddp_bytes_equivalent)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
