"""The catalogue as live objects of the Prometheus client."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lowcomm_node.telemetry.catalogue import CATALOGUE, OTHER
from lowcomm_node.telemetry.metric import Metric, label_sets

__all__ = ["Instruments"]


class Instruments:
    """Each label combination is looked up once, then held: looking it up costs more than counting."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._counters: dict[tuple[str, ...], Counter] = {}
        self._gauges: dict[tuple[str, ...], Gauge] = {}
        self._histograms: dict[tuple[str, ...], Histogram] = {}
        self._infos: dict[str, Gauge] = {}
        self._families: dict[str, Counter | Gauge] = {}
        for metric in CATALOGUE:
            self._build(metric)

    def counter(self, name: str, *labels: str) -> Counter:
        """That of one label combination; an unknown last value counts as ``other`` where there is one."""
        found = self._counters.get((name, *labels))
        return found if found is not None else self._counters[(name, *labels[:-1], OTHER)]

    def gauge(self, name: str, *labels: str) -> Gauge:
        """That of one label combination."""
        return self._gauges[(name, *labels)]

    def histogram(self, name: str, *labels: str) -> Histogram:
        """That of one label combination."""
        return self._histograms[(name, *labels)]

    def reveal(self, name: str, *labels: str) -> None:
        """Show one label combination of a metric that not every machine or run has; the others of it stay away."""
        family = self._families[name]
        if isinstance(family, Counter):
            self._counters.setdefault((name, *labels), family.labels(*labels))
        else:
            self._gauges.setdefault((name, *labels), family.labels(*labels))

    def shown(self, name: str) -> list[Gauge]:
        """All label combinations of a gauge that are shown now."""
        return [gauge for key, gauge in self._gauges.items() if key[0] == name]

    def set_info(self, name: str, **labels: str) -> None:
        """1 with these labels, in place of what was said before."""
        info = self._infos[name]
        info.clear()
        info.labels(**labels).set(1)

    def set_exclusive(self, name: str, value: str) -> None:
        """1 for one label value, 0 for its siblings."""
        chosen = self._gauges[name, value]
        for key, gauge in self._gauges.items():
            if key[0] == name:
                gauge.set(1 if gauge is chosen else 0)

    def _build(self, metric: Metric) -> None:
        name, names = f"lowcomm_{metric.name}", tuple(metric.labels)
        if metric.kind == "info":
            self._infos[metric.name] = Gauge(name, metric.help, names, registry=self._registry)
        elif metric.needs:
            make = Counter if metric.kind == "counter" else Gauge
            self._families[metric.name] = make(name, metric.help, names, registry=self._registry)
        elif metric.kind == "counter":
            counter = Counter(name, metric.help, names, registry=self._registry)
            for values in label_sets(metric):
                self._counters[metric.name, *values] = counter.labels(*values) if values else counter
        elif metric.kind == "gauge":
            gauge = Gauge(name, metric.help, names, registry=self._registry)
            for values in label_sets(metric):
                child = self._gauges[metric.name, *values] = gauge.labels(*values) if values else gauge
                child.set(metric.initial)
        else:
            histogram = Histogram(name, metric.help, names, buckets=metric.buckets, registry=self._registry)
            for values in label_sets(metric):
                self._histograms[metric.name, *values] = histogram.labels(*values) if values else histogram
