"""``lowcomm-node swarm`` refuses what cannot work before anything is started."""

from pathlib import Path

import pytest

from lowcomm_node.cli.app import main
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.swarm.lines import parse_line
from lowcomm_node.cli.swarm.options import SwarmOptions
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.presets import OPTIMIZERS
from lowcomm_node.sim.profiles import Nat


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (SwarmOptions(nodes=0), "--nodes"),
        (SwarmOptions(nodes=65), "1 to 64"),
        (SwarmOptions(minutes=0.0), "--minutes"),
        (SwarmOptions(minutes=float("nan")), "--minutes"),
        (SwarmOptions(minutes=1.0, steps=10), "exclude"),
        (SwarmOptions(steps=0), "--steps"),
        (SwarmOptions(kill_every_s=1.0), "--kill-every"),
        (SwarmOptions(nodes=1, kill_every_s=10.0), "never killed"),
        (SwarmOptions(behind_nat=1), "--line"),
        (SwarmOptions(line=parse_line("20mbit"), nat=Nat.SYMMETRIC), "--nat symmetric needs --behind-nat"),
        (SwarmOptions(line=parse_line("20mbit"), behind_nat=4), "less than --nodes 4"),
        (SwarmOptions(line=parse_line("20mbit"), behind_nat=-1), "--behind-nat"),
        (SwarmOptions(line=parse_line("20mbit"), behind_nat=3, chaos_every_s=5.0), "at least 2 of --nodes 4"),
        (SwarmOptions(compare_no_meetings=True, minutes=4.9), "--minutes 5"),
        (SwarmOptions(compare_no_meetings=True, steps=1000), "--minutes"),
        (SwarmOptions(join_late=-1), "--join-late"),
        (SwarmOptions(nodes=2, compare_calm=True), "--compare calm needs --nodes 3 or more"),
        (SwarmOptions(seed=-1), "--seed"),
        (SwarmOptions(nodes=4, port_base=80), "1024 to 65524"),
        (SwarmOptions(nodes=4, join_late=1, port_base=65524), "--port-base"),
        (SwarmOptions(manifest=Path("/nowhere/run.toml")), "no such file"),
        (SwarmOptions(directory=Path("/" + "d" * 100)), "Unix sockets"),
        (SwarmOptions(recordings=Path(__file__)), "not a directory"),
        (SwarmOptions(recordings=Path(__file__).parent), "not empty"),
    ],
)
def test_impossible_options_are_refused_by_name(options: SwarmOptions, word: str) -> None:
    """Each refusal names the option or what it allows."""
    with pytest.raises(ConfigError, match=word):
        options.check()


def test_a_manifest_names_its_own_optimizer(tmp_path: Path) -> None:
    """The refusal names both options, the manifest's key and the command that writes fitting values."""
    path = tmp_path / "run.toml"
    path.write_text("seed = 1\n")

    with pytest.raises(ConfigError) as caught:
        SwarmOptions(manifest=path, optimizer="dion").check()

    text = str(caught.value)
    assert text.startswith("--optimizer dion and --manifest exclude each other: the manifest's optimizer.kind decides")
    assert "lowcomm-node init FILE --optimizer dion" in text


def test_the_run_is_of_the_manifest_or_the_chosen_optimizer(tmp_path: Path) -> None:
    """A file is taken as it is, without one the preset; a seed on the command line beats both."""
    path = tmp_path / "run.toml"
    path.write_text('name = "mine"\n[optimizer]\nkind = "sgd"\nlr = 0.1\n')

    mine = SwarmOptions(manifest=path, seed=5).read_manifest()

    assert (mine.name, mine.seed, mine.optimizer.kind, mine.optimizer.lr) == ("mine", 5, "sgd", 0.1)
    assert SwarmOptions(optimizer="dion").read_manifest() == Manifest(name="swarm", optimizer=OPTIMIZERS["dion"])
    assert SwarmOptions().read_manifest() == Manifest(name="swarm")


def test_chaos_needs_survivors_and_no_other_killer() -> None:
    """The first node dies for good, and two are always left in peace."""
    SwarmOptions(nodes=4, chaos_every_s=1.0).check()
    with pytest.raises(ConfigError, match=r"--chaos 0\.5 is not allowed; allowed: at least 1 second"):
        SwarmOptions(chaos_every_s=0.5).check()
    with pytest.raises(ConfigError, match="--chaos needs --nodes 4 or more"):
        SwarmOptions(nodes=3, chaos_every_s=6.0).check()
    with pytest.raises(ConfigError, match="exclude each other"):
        SwarmOptions(nodes=4, chaos_every_s=6.0, kill_every_s=6.0).check()


def test_a_sleep_leaves_two_awake_and_ends_within_the_run() -> None:
    """Without a length of its own the run lasts two minutes longer than the sleep, whatever the manifest's schedule."""
    SwarmOptions(nodes=3, sleep_s=600.0, minutes=11.0).check()
    with pytest.raises(ConfigError, match=r"--sleep 0\.5 is not allowed; allowed: at least 1 second"):
        SwarmOptions(sleep_s=0.5).check()
    with pytest.raises(ConfigError, match="--sleep needs --nodes 3 or more"):
        SwarmOptions(nodes=2, sleep_s=60.0).check()
    with pytest.raises(ConfigError, match="--sleep excludes --chaos"):
        SwarmOptions(nodes=4, sleep_s=60.0, chaos_every_s=6.0).check()
    with pytest.raises(ConfigError, match=r"--sleep 600 does not end within --minutes 10; allowed: more than 10\.3"):
        SwarmOptions(nodes=3, sleep_s=600.0, minutes=10.0).check()

    assert SwarmOptions(sleep_s=600.0).limit_s == 720.0
    assert SwarmOptions(sleep_s=600.0, manifest=Path("run.toml")).limit_s == 720.0
    assert SwarmOptions(sleep_s=600.0, steps=100).limit_s is None


def test_possible_options_pass(tmp_path: Path) -> None:
    """The defaults and the corners of the ranges are allowed."""
    SwarmOptions().check()
    SwarmOptions(optimizer="dion").check()
    SwarmOptions(nodes=64, join_late=64, port_base=65536 - 3 * 128, kill_every_s=3.0, seed=2**63 - 1).check()
    SwarmOptions(line=parse_line("20mbit"), behind_nat=3, compare_no_meetings=True, minutes=5.0).check()


def test_a_directory_that_holds_something_is_refused(tmp_path: Path) -> None:
    """Old state under the same names would be mistaken for the swarm's own."""
    SwarmOptions(directory=tmp_path).check()
    (tmp_path / "n0").mkdir()
    with pytest.raises(ConfigError, match="not empty"):
        SwarmOptions(directory=tmp_path).check()


def test_only_a_swarm_without_manifest_and_steps_has_the_default_time() -> None:
    """A manifest and --steps bring their own length; --minutes always ends the run."""
    assert SwarmOptions().limit_s == 120
    assert SwarmOptions(steps=10).limit_s is None
    assert SwarmOptions(manifest=Path("run.toml")).limit_s is None
    assert SwarmOptions(manifest=Path("run.toml"), minutes=0.5).limit_s == 30


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors and refused values end with their own status and one line."""
    assert main(["swarm", "--minutes", "1", "--steps", "5"]) == ExitCode.USAGE
    assert "not allowed with" in capsys.readouterr().err
    assert main(["swarm", "--nodes", "0"]) == ExitCode.CONFIG
    assert capsys.readouterr().err == "error: --nodes 0 is not allowed; allowed: 1 to 64\n"
    Path("run.toml").write_text("seed = 1\n")
    assert main(["swarm", "--manifest", "run.toml", "--optimizer", "dion"]) == ExitCode.CONFIG
    assert capsys.readouterr().err.startswith("error: --optimizer dion and --manifest exclude each other")
