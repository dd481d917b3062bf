"""What an alert is: an expression, what it means to a person, and two small histories that show when it fires and when not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["NODE", "RUN", "Alert", "Case", "Recording", "series"]

RUN = {"job": "lowcomm", "run_id": "r"}
"""Labels of what is said of a whole run, in the histories."""
NODE = {**RUN, "instance": "a"}
"""Labels of what is said of one node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A query that is kept: ``level:metric:operations``, level being the labels that are left."""

    record: str
    expr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A history of series, one value a minute in promtool's notation, and whom the alert names at its end."""

    history: Mapping[str, str]
    minutes: int
    fires_for: tuple[Mapping[str, str], ...] = ()
    """Labels of each firing alert but alertname and severity; none: it must be silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One rule and its page."""

    name: str
    severity: Literal["critical", "warning", "info"]
    """critical: somebody has to get up."""
    expr: str
    minutes: int
    """How long it has to be so; 0 fires at once."""
    summary: str
    """One line; may name ``{{ $labels.instance }}``."""
    cause: str
    look: str
    """Where to look for which of the causes it is."""
    cure: str
    fires: Case
    silent: Case

    @property
    def runbook(self) -> str:
        """Its section, as a path within the repository."""
        return f"docs/runbooks.md#{self.name.lower()}"

    def said_of(self, labels: Mapping[str, str]) -> str:
        """The summary as Prometheus fills it in."""
        text = self.summary
        for name, value in labels.items():
            text = text.replace(f"{{{{ $labels.{name} }}}}", value)
        return text


def series(metric: str, values: str, *, instance: str = "a", **labels: str) -> tuple[str, str]:
    """One entry of a history."""
    pairs = {**NODE, "instance": instance, **labels}
    selector = ",".join(f'{name}="{value}"' for name, value in pairs.items())
    return f"{metric}{{{selector}}}", values
