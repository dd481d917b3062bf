"""``lowcomm-node config``: what holds and why, and whether files are sound."""

import json
import tomllib
from pathlib import Path

import pytest

from lowcomm_node.cli.app import main
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NetworkSettings, NodeSettings
from lowcomm_node.settings.presets import OPTIMIZERS
from lowcomm_node.settings.template import manifest_template


def test_show_prints_settings_that_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    """The output is a config file."""
    assert main(["config", "show", "--set", "network.grpc_port=7001", "--origin"]) == 0

    shown = build(NodeSettings, tomllib.loads(capsys.readouterr().out), "x")
    assert shown == NodeSettings(network=NetworkSettings(grpc_port=7001))


def test_show_names_the_origin_of_each_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    """Default, file, variable, flag: all four in one listing."""
    config = own_home / "config" / "lowcomm-node" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[log]\nlevel = "warning"\n[metrics]\nport = 1\n')
    monkeypatch.setenv("LOWCOMM_METRICS__PORT", "2")

    assert main(["config", "show", "--origin", "--state-dir", "/s"]) == 0

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"# config file: {config}" in lines
    assert "# state directory: /s" in lines
    assert 'state_dir = "/s" # flag --state-dir' in lines
    assert f'level = "warning" # file {config}' in lines
    assert "port = 2 # environment LOWCOMM_METRICS__PORT" in lines
    assert "threads = 0 # default" in lines


def test_show_as_json(capsys: pytest.CaptureFixture[str], own_home: Path) -> None:
    """Values keep their types; origins are always there."""
    assert main(["config", "show", "--json", "--set", "data.paths=/books"]) == 0

    tree = json.loads(capsys.readouterr().out)
    assert tree["config_file"] is None
    assert tree["state_dir"] == str(own_home / "state" / "lowcomm-node")
    assert tree["settings"]["data.paths"] == {"value": ["/books"], "origin": "flag --set data.paths"}
    assert tree["settings"]["metrics.port"] == {"value": 9464, "origin": "default"}


def test_show_without_files_says_where_it_looked(capsys: pytest.CaptureFixture[str], own_home: Path) -> None:
    """So that nobody has to guess where a config file belongs."""
    main(["config", "show"])

    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("# config file: none (")
    assert str(own_home / "config" / "lowcomm-node" / "config.toml") in first


def test_template_is_an_empty_set_of_settings(capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints can be saved as config.toml as it is."""
    assert main(["config", "template"]) == 0

    Path("config.toml").write_text(capsys.readouterr().out)
    assert main(["config", "check", "config.toml"]) == 0


def test_check_tells_the_two_documents_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """By their keys, even where one is mistyped."""
    Path("run.toml").write_text(manifest_template(Manifest()).replace("num_layers", "num_layrs"))
    Path("config.toml").write_text("[network]\ngrpc_prt = 1\nhost = '::'\n")

    assert main(["config", "check", "run.toml"]) == 78
    assert "run.toml: unknown key model.num_layrs; did you mean model.num_layers?" in capsys.readouterr().err
    assert main(["config", "check", "config.toml"]) == 78
    assert "config.toml: unknown key network.grpc_prt; did you mean network.grpc_port?" in capsys.readouterr().err


def test_check_takes_settings_and_manifest_together(capsys: pytest.CaptureFixture[str]) -> None:
    """A settings file by position, a manifest by its option."""
    Path("config.toml").write_text("[network]\ngrpc_port = 7001\n")
    Path("run.toml").write_text(manifest_template(Manifest()))

    assert main(["config", "check", "config.toml", "--manifest", "run.toml"]) == 0

    out = capsys.readouterr().out
    assert "node settings: ok (config.toml)" in out
    assert "manifest: ok (run.toml)" in out


def test_check_tells_what_the_run_exchanges(capsys: pytest.CaptureFixture[str]) -> None:
    """The optimizer, the bytes of a meeting, and per stream how often and why, derived periods included."""
    Path("run.toml").write_text(manifest_template(Manifest(optimizer=OPTIMIZERS["mtdao"])))

    assert main(["config", "check", "run.toml"]) == 0

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "optimizer mtdao" in lines
    assert any(line.startswith("a meeting at most 46.6 KiB each way for the weights") for line in lines)
    assert "first moment (exp_avg) every 693 steps half-life of beta 0.999" in lines


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run.toml", "--manifest", "run.toml"], "check one at a time"),
        (["config.toml", "--config", "config.toml"], "check one at a time"),
        (["none.toml"], "none.toml: cannot be read: no such file or directory"),
        (["--config", "none.toml"], "none.toml: no such config file (given with --config)"),
        (["broken.toml"], "broken.toml, line 1, column 5: not valid TOML"),
        (["old.toml"], "old.toml: the run speaks protocol 2, this lowcomm-node speaks 1: update"),
        (["drift.toml"], "g < 2 (1 - a^2) = 0.38"),
    ],
)
def test_check_refuses_with_the_config_status(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence each, and status 78."""
    Path("config.toml").write_text("[network]\ngrpc_port = 7001\n")
    Path("run.toml").write_text("seed = 1\n")
    Path("broken.toml").write_text("a = = 1\n")
    Path("old.toml").write_text("protocol_version = 2\n")
    Path("drift.toml").write_text('[outer]\nmixing = "momentum"\nmomentum = 0.9\nmixing_gain = 0.7\n')

    assert main(["config", "check", *arguments]) == 78

    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
