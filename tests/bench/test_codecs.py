"""What codecs capture of real differences, measured."""

import json
from pathlib import Path

import pytest

from lowcomm_node.bench.codec_report import CODEC_COLUMNS, codec_front, codec_json, codec_markdown, plot_codecs
from lowcomm_node.bench.codecs import Case, Finding, all_cases, measure_codecs
from lowcomm_node.units import Codec, Dtype, Omega
from tests.bench.tiny import text_in, tiny_trial

_MEETINGS = 7


def _measure(folder: Path, *cases: Case, every_steps: int = 2) -> dict[str, Finding]:
    trial = tiny_trial(text_in(folder), "meet-adamw", {"training.total_steps": 100})
    findings: list[Finding] = []
    for so_far in measure_codecs(trial, cases, every_steps=every_steps, meetings=_MEETINGS, burn_in_steps=4):
        findings = so_far
    return {finding.case.label: finding for finding in findings}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finding]:
    """One measurement of one case of each kind."""
    return _measure(
        tmp_path_factory.mktemp("codecs"),
        *(Case(Codec.DENSE, dtype) for dtype in Dtype),
        Case(Codec.SPARSE, Dtype.INT8, 2048),
        Case(Codec.AB, Dtype.BF16, 4096),
        Case(Codec.AB, Dtype.BF16, 4096, has_power_step=True),
        Case(Codec.AB, Dtype.BF16, 4096, Omega.CACHED),
        Case(Codec.AB, Dtype.BF16, 4096, Omega.CACHED, is_per_pair=True),
    )


def test_whole_tensors_capture_everything_up_to_rounding(found: dict[str, Finding]) -> None:
    """And the more bits, the more."""
    captured = [found[f"dense {dtype}"].mean("captured") for dtype in Dtype]

    assert captured[0] == pytest.approx(1.0, abs=1e-4)
    assert all(value > 0.9 for value in captured)
    assert found["dense fp32"].mean("bytes_sent") > found["dense int8"].mean("bytes_sent")


def test_factors_capture_no_more_than_the_best_of_their_ranks(found: dict[str, Finding]) -> None:
    """The truncated SVD is the bound, and one power step comes nearer to it for twice the bytes."""
    plain, power = found["ab bf16"], found["ab + power step bf16"]

    assert 0 < plain.mean("captured") < plain.mean("best") + 1e-3
    assert plain.mean("captured") < power.mean("captured") < power.mean("best") + 1e-3
    assert power.mean("bytes_sent") == 2 * plain.mean("bytes_sent")


def test_a_share_of_the_coordinates_captures_that_share(found: dict[str, Finding]) -> None:
    """Coordinates are drawn blindly, so they hold as much energy as any others, within chance."""
    sparse = found["sparse int8"]
    share = sparse.mean("bytes_sent") / found["dense int8"].mean("bytes_sent")

    assert sparse.mean("captured") == pytest.approx(share, rel=0.5)


def test_first_meetings_only_teach(found: dict[str, Finding]) -> None:
    """Planners that have seen nothing yet would be measured at their worst."""
    assert {len(finding.captured) for finding in found.values()} == {_MEETINGS - 4}


def test_measuring_changes_nothing(tmp_path: Path) -> None:
    """What one case finds does not depend on which others are measured beside it."""
    case = Case(Codec.AB, Dtype.INT8, 4096)

    alone = _measure(tmp_path, case)
    beside = _measure(tmp_path, Case(Codec.DENSE, Dtype.INT4), case)

    assert alone[case.label] == beside[case.label]


def test_every_case_is_another() -> None:
    """No two lines of the table are the same codec, and all codecs and formats are there."""
    cases = all_cases()

    assert len({(case.label, case.budget_bytes) for case in cases}) == len(cases)
    assert {case.codec for case in cases} == {Codec.DENSE, Codec.SPARSE, Codec.AB}
    assert {case.dtype for case in cases} == set(Dtype)


def test_findings_are_reported(found: dict[str, Finding], tmp_path: Path) -> None:
    """Table, strict JSON and a picture; on the front everything that costs more captures more."""
    findings = list(found.values())
    head, rule, *lines = [line for line in codec_markdown(findings, "tiny").splitlines() if line.startswith("|")]
    plain = json.loads(json.dumps(codec_json(findings, "tiny"), allow_nan=False))
    plot_codecs(findings, "tiny", tmp_path / "codecs.png")

    best = codec_front(findings)
    assert len(lines) == len(findings) == len(plain["findings"])
    assert {line.count("|") for line in (head, rule, *lines)} == {len(CODEC_COLUMNS) + 1}
    assert [f.mean("captured") for f in best] == sorted(f.mean("captured") for f in best)
    assert best[-1].case == Case(Codec.DENSE, Dtype.FP32)
    assert (tmp_path / "codecs.png").read_bytes().startswith(b"\x89PNG")
