"""``lowcomm-node config``: which settings hold and why, are these files sound, what could be set."""

import argparse
import json
from pathlib import Path

from lowcomm_node.cli.common import add_settings_arguments, settings_from, state_dir_of
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.periods import payload_text, period_lines
from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.load import read_manifest, read_toml, toml_value
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.merge import values_of
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.paths import config_candidates, find_config
from lowcomm_node.settings.schema import flat_names, keys_of
from lowcomm_node.settings.template import settings_template

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare show, check and template."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="show|check|template")
    show = actions.add_parser("show", help="print the node settings that hold on this machine")
    show.add_argument("--origin", action="store_true", help="say for each value where it comes from")
    show.add_argument("--json", action="store_true", help="values and origins as JSON")
    add_settings_arguments(show)
    check = actions.add_parser("check", help="check node settings, a settings file or a run manifest")
    check.add_argument("file", nargs="?", metavar="FILE", help="settings file or run manifest, told apart by its keys")
    check.add_argument("--manifest", type=Path, metavar="FILE", help="run manifest to check as well")
    add_settings_arguments(check)
    actions.add_parser("template", help="print a commented settings file to edit")


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    if args.action == "template":
        print(settings_template(NodeSettings()), end="")
    elif args.action == "show":
        _show(args)
    else:
        _check(args)
    return ExitCode.OK


def _show(args: argparse.Namespace) -> None:
    settings, origins = settings_from(args)
    values = values_of(settings)
    config_file = find_config(args.config)
    if args.json:
        tree = {key: {"value": value, "origin": origins[key]} for key, value in values.items()}
        places = {"config_file": config_file and str(config_file), "state_dir": str(state_dir_of(settings))}
        print(json.dumps({**places, "settings": tree}, indent=2))
        return
    looked_for = f"none ({' and '.join(map(str, config_candidates()))} do not exist)"
    print(f"# config file: {config_file or looked_for}")
    print(f"# state directory: {state_dir_of(settings)}")
    table = ""
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section != table:
            table = section
            print(f"\n[{section}]")
        line = f"{name} = {toml_value(value)}"
        print(f"{line:<40}  # {origins[key]}" if args.origin else line)


def _check(args: argparse.Namespace) -> None:
    manifest_path: Path | None = args.manifest
    if args.file is not None and _is_manifest(Path(args.file)):
        if manifest_path is not None:
            raise ConfigError(
                f"{args.file} looks like a run manifest and --manifest names another; check one at a time"
            )
        manifest_path = Path(args.file)
    elif args.file is not None:
        if args.config is not None:
            raise ConfigError(f"{args.file} looks like a settings file and --config names another; check one at a time")
        args.config = args.file
    settings_from(args)
    print(f"node settings: ok ({find_config(args.config) or 'no config file'})")
    if manifest_path is not None:
        _check_manifest(manifest_path)


def _check_manifest(path: Path) -> None:
    manifest = read_manifest(path)
    if manifest.protocol_version not in SPOKEN:
        raise ConfigError(f"{path}: {SPOKEN.advice(manifest.protocol_version)}")
    print(f"manifest: ok ({path})")
    print(f"  run id      {run_id(manifest)}")
    print(f"  parameters  {manifest.model.num_parameters:,}, {manifest.model.flops_per_token / 1e9:.3g} GFLOP a token")
    print(f"  per step    {manifest.tokens_per_step:,} tokens a node, {manifest.training.total_steps:,} steps")
    print(f"  optimizer   {manifest.optimizer.kind}")
    print(f"  a meeting   {payload_text(manifest)}")
    print("  how often a node starts one, counted in its own steps, and why:")
    for line in period_lines(manifest):
        print(f"    {line}")


def _is_manifest(path: Path) -> bool:
    """Whether more of the file's keys belong to a manifest than to node settings; an unknown key belongs to neither."""
    names = flat_names(read_toml(path))
    in_manifest, in_settings = (len(names & keys_of(document).keys()) for document in (Manifest, NodeSettings))
    return in_manifest > in_settings
