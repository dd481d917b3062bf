"""How queries pick their series: by what is chosen at the top of a dashboard."""

from deploy.grafana.build import Variable

__all__ = ["INSTANCE", "INSTANCES", "JOB", "RATE", "RUN", "of_node", "of_run", "per_second", "quantile"]

RATE = "$__rate_interval"
_RUN = 'job=~"$job",run_id=~"$run"'

JOB = Variable(name="job", label="Job", metric="lowcomm_build_info", of="job")
RUN = Variable(name="run", label="Run", metric='lowcomm_build_info{job=~"$job"}', of="run_id")
INSTANCES = Variable(name="instance", label="Node", metric=f"lowcomm_build_info{{{_RUN}}}", of="instance")
INSTANCE = Variable(
    name="instance", label="Node", metric=f"lowcomm_build_info{{{_RUN}}}", of="instance", is_single=True
)


def of_run(metric: str, *matchers: str) -> str:
    """The series of all nodes of the chosen runs."""
    return f"{metric}{{{','.join((_RUN, *matchers))}}}"


def of_node(metric: str, *matchers: str) -> str:
    """The series of the chosen nodes."""
    return of_run(metric, 'instance=~"$instance"', *matchers)


def per_second(series: str, over: str = RATE) -> str:
    """How fast a counter grows."""
    return f"rate({series}[{over}])"


def quantile(q: float, bucket: str, *by: str) -> str:
    """Of a histogram's ``_bucket`` series, over all series that agree in ``by``."""
    return f"histogram_quantile({q}, sum by ({', '.join((*by, 'le'))}) ({per_second(bucket)}))"
