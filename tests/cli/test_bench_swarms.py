"""``bench overhead``, ``start`` and ``scaling``: what a command line asks for, and what it may not."""

from pathlib import Path

import pytest

from lowcomm_node.bench.bare import Tally
from lowcomm_node.bench.trial import SMALL, make_manifest
from lowcomm_node.cli.app import main
from lowcomm_node.cli.bench.ballast import Ballast
from lowcomm_node.cli.bench.overhead import OverheadRequest
from lowcomm_node.cli.bench.scaling import ScalingRequest
from lowcomm_node.cli.bench.start import StartRequest
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["overhead", "--nodes", "0"], "--nodes 0"),
        (["overhead", "--turns", "0"], "--turns 0"),
        (["overhead", "--window", "60"], "--window 60"),
        (["overhead", "--every", "5", "-1"], "--every"),
        (["overhead", "--line", "fast"], "--line fast"),
        (["start", "--rounds", "0"], "--rounds 0"),
        (["scaling", "--most", "3"], "--most 3"),
        (["scaling", "--window", "0"], "--window 0"),
        (["scaling", "--every", "-1"], "--every -1"),
    ],
)
def test_what_is_not_allowed_is_named(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started."""
    assert main(["bench", *words]) == ExitCode.CONFIG

    assert named in capsys.readouterr().err


def test_the_run_goes_on_for_longer_than_the_measurement() -> None:
    """With the periods that were asked for, or the manifest's own."""
    given = make_manifest(SMALL, {"meeting.params_every_steps": 7})

    assert OverheadRequest().manifest(given, 0).meeting == given.meeting
    assert OverheadRequest().manifest(given, 50).meeting.params_every_steps == 50
    assert ScalingRequest().manifest(given).meeting == given.meeting
    assert ScalingRequest(every_steps=9).manifest(None).meeting.params_every_steps == 9
    assert StartRequest().manifest(None).model == Manifest().model
    for manifest in (
        OverheadRequest().manifest(None, 0),
        ScalingRequest().manifest(None),
        StartRequest().manifest(None),
    ):
        assert manifest.training.total_steps > 1_000_000


def test_sizes_double_up_to_the_most() -> None:
    """From two, the least that meets."""
    assert ScalingRequest(most=32).sizes == (2, 4, 8, 16, 32)
    with pytest.raises(ConfigError):
        ScalingRequest(most=1).check()


def test_a_tally_is_seen_by_whoever_maps_it(tmp_path: Path) -> None:
    """The loop writes, the benchmark reads, and the loop is asked for nothing."""
    writer, reader = Tally(tmp_path / "tally"), Tally(tmp_path / "tally")
    writer.tokens += 768

    assert reader.tokens == 768
    writer.close()
    reader.close()


def test_ballast_is_there_only_within() -> None:
    """As many processes as wanted, and none afterwards."""
    with Ballast() as ballast:
        ballast.carry(2)
        first, second = ballast.processes
        assert first.poll() is None
        assert second.poll() is None
        ballast.carry(1)
        assert second.poll() is not None
    assert first.poll() is not None
