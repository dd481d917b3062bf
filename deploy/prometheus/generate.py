"""Writes rules, their tests and the runbooks: ``python -m deploy.prometheus.generate``, with ``--check`` only says whether they are fresh."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from deploy.prometheus.alert import Alert, Case, Recording
from deploy.prometheus.alerts.machine import MACHINE_ALERTS
from deploy.prometheus.alerts.meetings import MEETING_ALERTS
from deploy.prometheus.alerts.swarm import SWARM_ALERTS
from deploy.prometheus.alerts.training import TRAINING_ALERTS
from deploy.prometheus.recording import RECORDINGS

__all__ = ["ALERTS", "files"]

ALERTS: tuple[Alert, ...] = (*TRAINING_ALERTS, *MEETING_ALERTS, *SWARM_ALERTS, *MACHINE_ALERTS)
_GROUPS = {
    "lowcomm-training": TRAINING_ALERTS,
    "lowcomm-meetings": MEETING_ALERTS,
    "lowcomm-swarm": SWARM_ALERTS,
    "lowcomm-machine": MACHINE_ALERTS,
}
_ROOT = Path(__file__).parents[2]
_RULES = _ROOT / "deploy/prometheus/rules"
_MADE = "# Written by deploy.prometheus.generate; do not edit."


def files() -> dict[Path, str]:
    """What each file should hold."""
    return {
        _RULES / "lowcomm.recording.yml": _text(_recording_rules(RECORDINGS)),
        _RULES / "lowcomm.alerts.yml": _text(_alerting_rules(_GROUPS)),
        _RULES / "lowcomm.test.yml": _text(_tests(ALERTS)),
        _ROOT / "docs/runbooks.md": _text(_runbooks(ALERTS)),
    }


def main(arguments: list[str]) -> int:
    """Write, or compare; the exit status."""
    wanted = files()
    if arguments == ["--check"]:
        stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
        if stale:
            sys.stderr.write(f"not what deploy.prometheus.generate writes: {', '.join(stale)}; run it\n")
        return 1 if stale else 0
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


def _recording_rules(recordings: Iterable[Recording]) -> Iterator[str]:
    yield from (_MADE, "groups:", "  - name: lowcomm-recording", "    rules:")
    for recording in recordings:
        yield f"      - record: {recording.record}"
        yield from _expression(recording.expr)


def _alerting_rules(groups: Mapping[str, Sequence[Alert]]) -> Iterator[str]:
    yield from (_MADE, "groups:")
    for name, alerts in groups.items():
        yield from (f"  - name: {name}", "    rules:")
        for alert in alerts:
            yield f"      - alert: {alert.name}"
            yield from _expression(alert.expr)
            if alert.minutes:
                yield f"        for: {alert.minutes}m"
            yield from ("        labels:", f"          severity: {alert.severity}", "        annotations:")
            yield f"          summary: {json.dumps(alert.summary)}"
            yield f"          description: {json.dumps(f'{alert.cause} {alert.cure}')}"
            yield f"          runbook_url: {alert.runbook}"


def _expression(expr: str) -> Iterator[str]:
    yield "        expr: |"
    for line in expr.splitlines():
        yield f"          {line}"


def _tests(alerts: Iterable[Alert]) -> Iterator[str]:
    yield from (_MADE, "rule_files: [lowcomm.recording.yml, lowcomm.alerts.yml]", "evaluation_interval: 1m", "tests:")
    for alert in alerts:
        yield from _test(alert, alert.fires, f"{alert.name} fires")
        yield from _test(alert, alert.silent, f"{alert.name} is silent")


def _test(alert: Alert, case: Case, name: str) -> Iterator[str]:
    yield from (f"  - name: {name}", "    interval: 1m", "    input_series:")
    for selector, values in case.history.items():
        yield f"      - {{series: {json.dumps(selector)}, values: {json.dumps(values)}}}"
    yield from ("    alert_rule_test:", f"      - eval_time: {case.minutes}m", f"        alertname: {alert.name}")
    yield f"        exp_alerts:{'' if case.fires_for else ' []'}"
    for labels in case.fires_for:
        annotations = {
            "summary": alert.said_of(labels),
            "description": f"{alert.cause} {alert.cure}",
            "runbook_url": alert.runbook,
        }
        yield f"          - exp_labels: {json.dumps({**labels, 'severity': alert.severity})}"
        yield f"            exp_annotations: {json.dumps(annotations)}"


def _runbooks(alerts: Iterable[Alert]) -> Iterator[str]:
    yield from (
        "# Runbooks",
        "",
        "What each alert of `deploy/prometheus/rules` means and what to do. Written by `python -m deploy.prometheus.generate`",
        "from the alerts themselves; do not edit. *critical* gets somebody up, *warning* can wait for the day, *info* is good",
        "to know. Dashboards are those of `deploy/grafana`.",
    )
    for alert in alerts:
        lasting = f", for {alert.minutes} minutes" if alert.minutes else ""
        yield from ("", f"## {alert.name}", "", f"*{alert.severity}{lasting}.* {_plain(alert.summary)}", "")
        yield from (f"**Cause.** {alert.cause}", "", f"**Look.** {alert.look}", "", f"**Cure.** {alert.cure}", "")
        yield from ("```promql", alert.expr, "```")


def _plain(summary: str) -> str:
    """The summary, of any node or run."""
    text = summary
    for label, word in (("instance", "a node"), ("run_id", "..."), ("gpu", "..."), ("place", "...")):
        text = text.replace(f"{{{{ $labels.{label} }}}}", word)
    return text[0].upper() + text[1:]


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
