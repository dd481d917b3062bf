"""Results put together: means over seeds, the front, table, pictures."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lowcomm_node.bench.plots import plot_bytes, plot_spread, plot_tokens
from lowcomm_node.bench.store import read_result, write_result
from lowcomm_node.bench.summary import COLUMNS, Row, front, markdown, parts_of, summarise, summary_json
from lowcomm_node.bench.trial import Point, Result
from lowcomm_node.errors import StoreError
from tests.bench.tiny import tiny_trial

_POINTS = tuple(
    Point(
        tokens=100 * k,
        bytes_per_node=10.0 * k,
        loss=3 - 0.1 * k,
        loss_averaged=2.9,
        spread=0.1 / k,
        learning_rate=1e-3 / k,
    )
    for k in (1, 2, 3)
)


def _result(loss: float, bytes_per_node: float, **changes: float) -> Result:
    result = Result(
        loss=loss,
        loss_averaged=loss - 0.01,
        spread=0.001,
        bytes_per_node=bytes_per_node,
        tokens=300,
        duration_steps=6.0,
        seconds=1.0,
        nonfinite_steps=0,
        parameters=1000,
        curve=_POINTS,
    )
    return replace(result, **changes)  # type: ignore[arg-type]  # floats where floats are


def _rows() -> list[Row]:
    found = {"local": (2.5, 0.0), "meet": (2.0, 50.0), "fedavg": (2.2, 80.0), "ddp": (1.5, 4000.0)}
    return summarise(
        [
            (tiny_trial((), name, seed=seed), _result(loss + 0.1 * seed, num_bytes))
            for name, (loss, num_bytes) in found.items()
            for seed in (0, 1)
        ]
    )


def test_seeds_are_averaged() -> None:
    """One row a method, with the standard deviation over its seeds."""
    rows = _rows()

    assert [row.label for row in rows] == ["local", "meet", "fedavg", "ddp"]
    assert rows[0].mean("loss") == pytest.approx(2.55)
    assert rows[0].deviation("loss") == pytest.approx(0.1 / 2**0.5)


def test_the_front_holds_what_nobody_beats() -> None:
    """fedavg loses to meet in both loss and bytes; a run that diverged is never good."""
    rows = [*_rows(), *summarise([(tiny_trial((), "des-loc"), _result(math.nan, 0.0))])]

    assert [row.label for row in front(rows)] == ["local", "meet", "ddp"]


def test_the_table_has_a_line_for_each_method() -> None:
    """As many cells as columns, marked where nobody is better."""
    head, rule, *lines = [line for line in markdown(_rows()).splitlines() if line.startswith("|")]

    assert len(lines) == 4
    assert {line.count("|") for line in (head, rule, *lines)} == {len(COLUMNS) + 1}
    assert lines[1].startswith("| meet * | 2.0500 +/- 0.0707 |")
    assert lines[2].startswith("| fedavg | ")


def test_parts_have_a_line_where_there_are_any() -> None:
    """Means over seeds, below the table, and in the summary; nothing where a method sends one kind of thing."""
    sent = [{"warm-up": 2048.0 * k, "joins": 1024.0} for k in (1, 3)]
    rows = summarise(
        [
            (tiny_trial((), "ab-training", seed=seed), replace(_result(2.0, 9.0), bytes_by_part=parts, rank_ratio=0.5))
            for seed, parts in enumerate(sent)
        ]
    )

    assert parts_of(rows) == ["ab-training: KiB per node by part: warm-up 4, joins 1; rank after the last split 50%"]
    assert parts_of(rows)[0] in markdown(rows)
    assert summary_json(rows)["rows"][0]["bytes_by_part"] == {"warm-up": 4096.0, "joins": 1024.0}  # type: ignore[index]
    assert parts_of(_rows()) == []


def test_the_summary_is_strict_json() -> None:
    """Readable by anything, with the manifest of each method."""
    summary = json.loads(json.dumps(summary_json(_rows()), allow_nan=False))

    assert [row["is_on_front"] for row in summary["rows"]] == [True, True, False, True]
    assert summary["rows"][1]["mean"]["captured_ratio"] is None
    assert summary["rows"][1]["manifest"]["meeting"]["params_every_steps"] == 2


@pytest.mark.parametrize("plot", [plot_bytes, plot_tokens, plot_spread])
def test_pictures_are_written(plot: object, tmp_path: Path) -> None:
    """PNG files, whether or not anybody sends anything or differs."""
    assert callable(plot)
    alone = summarise([(tiny_trial((), "local"), replace(_result(2.0, 0.0), curve=()))])

    for number, rows in enumerate((_rows(), alone)):
        path = tmp_path / f"{number}.png"
        plot(rows, path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_results_are_kept(tmp_path: Path) -> None:
    """What was written is read back for the same trial and no other."""
    trial, result = tiny_trial((), "ddp"), _result(1.5, 10.0)

    assert read_result(tmp_path, trial) is None
    write_result(tmp_path, trial, result)

    found = read_result(tmp_path, trial)
    assert found is not None
    assert replace(found, captured_ratio=0.0) == replace(result, captured_ratio=0.0)
    assert read_result(tmp_path, tiny_trial((), "local")) is None


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    """Half a file is not taken for a result, and the user is told which to delete."""
    trial = tiny_trial((), "ddp")
    write_result(tmp_path, trial, _result(1.5, 10.0))
    (file,) = (tmp_path / "trials").iterdir()
    file.write_text(file.read_text()[:100])

    with pytest.raises(StoreError, match=file.name):
        read_result(tmp_path, trial)
