"""The kinds of panels that our dashboards have."""

from collections.abc import Mapping, Sequence

from deploy.grafana.build import COLUMNS, Json, Panel, Query

__all__ = ["heatmap", "stat", "states", "table", "timeseries"]


def timeseries(
    title: str, description: str, unit: str, *queries: Query, width: int = 8, height: int = 8, is_stacked: bool = False,
    is_logarithmic: bool = False, needs: str = "",
) -> Panel:  # fmt: skip
    """Lines over time; stacked ones are areas whose sum means something."""
    custom: Json = {"lineWidth": 1, "fillOpacity": 30 if is_stacked else 0, "showPoints": "never", "spanNulls": False}
    custom["stacking"] = {"mode": "normal" if is_stacked else "none", "group": "A"}
    if is_logarithmic:
        custom["scaleDistribution"] = {"type": "log", "log": 10}
    return Panel(
        kind="timeseries",
        title=title,
        description=description,
        unit=unit,
        queries=queries,
        width=width,
        height=height,
        needs=needs,
        defaults={"custom": custom}
        if is_logarithmic
        else {"custom": custom, "min": 0}
        if is_stacked
        else {"custom": custom},
        options={
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def stat(
    title: str,
    description: str,
    unit: str,
    expr: str,
    *,
    steps: Sequence[tuple[float | None, str]] = (),
    width: int = 3,
) -> Panel:
    """One number; ``steps`` colour it from each bound on (None: from the lowest value)."""
    thresholds = [{"value": bound, "color": colour} for bound, colour in steps or ((None, "text"),)]
    return Panel(
        kind="stat",
        title=title,
        description=description,
        unit=unit,
        queries=(Query(expr=expr),),
        width=width,
        height=4,
        defaults={"thresholds": {"mode": "absolute", "steps": thresholds}},
        options={
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "auto",
        },
    )


def heatmap(title: str, description: str, unit: str, expr: str, *, width: int = 8) -> Panel:
    """A histogram over time; ``expr`` gives one series per ``le``."""
    return Panel(
        kind="heatmap",
        title=title,
        description=description,
        unit=unit,
        queries=(Query(expr=expr, legend="{{le}}"),),
        width=width,
        height=8,
        options={
            "calculate": False,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5},
            "yAxis": {"unit": unit},
            "legend": {"show": True},
            "tooltip": {"mode": "single"},
        },
    )


def states(
    title: str, description: str, *queries: Query, colours: Mapping[int, tuple[str, str]], width: int = 24
) -> Panel:
    """A band per series over time; ``colours`` gives each value its word and colour."""
    mapping = {str(value): {"text": text, "color": colour, "index": value} for value, (text, colour) in colours.items()}
    return Panel(
        kind="state-timeline",
        title=title,
        description=description,
        unit="none",
        queries=queries,
        width=width,
        height=6,
        defaults={"mappings": [{"type": "value", "options": mapping}], "custom": {"fillOpacity": 80, "lineWidth": 0}},
        options={
            "mergeValues": True,
            "showValue": "auto",
            "rowHeight": 0.8,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        },
    )


def table(
    title: str, description: str, columns: Mapping[str, tuple[str, str]], *, keep: Sequence[str], link: str = ""
) -> Panel:
    """One line per node: ``columns`` gives each heading its expression and unit, ``keep`` are labels to show before them."""
    letters = [chr(ord("A") + index) for index in range(len(columns))]
    names = {f"Value #{letter}": heading for letter, heading in zip(letters, columns, strict=True)}
    overrides: list[Json] = [
        {"matcher": {"id": "byName", "options": heading}, "properties": [{"id": "unit", "value": unit}]}
        for heading, (_, unit) in columns.items()
    ]
    if link:
        target = {"title": "This node", "url": link}
        overrides.append(
            {"matcher": {"id": "byName", "options": "instance"}, "properties": [{"id": "links", "value": [target]}]}
        )
    order = {name: index for index, name in enumerate([*keep, *names])}
    return Panel(
        kind="table",
        title=title,
        description=description,
        unit="none",
        queries=tuple(Query(expr=expr) for expr, _ in columns.values()),
        width=COLUMNS,
        height=9,
        options={"showHeader": True, "cellHeight": "sm"},
        overrides=tuple(overrides),
        transformations=(
            {"id": "merge", "options": {}},
            {"id": "filterFieldsByName", "options": {"include": {"names": [*keep, *names]}}},
            {"id": "organize", "options": {"indexByName": order, "renameByName": names}},
        ),
    )
