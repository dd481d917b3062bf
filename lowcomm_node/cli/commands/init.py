"""``lowcomm-node init``: write a commented run manifest to edit."""

import argparse
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.errors import ConfigError, StoreError
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest, OptimizerConfig
from lowcomm_node.settings.presets import MODELS, OPTIMIZERS, model_table, with_model
from lowcomm_node.settings.template import manifest_template

__all__ = ["add_arguments", "run"]


_NOT_OURS = ("architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")


class _ListModels(argparse.Action):
    """Print the sizes and end, as ``--help`` does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        del namespace, values, option_string
        print(model_table())
        print("with the byte vocabulary; training on a token, forward and backward")
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the file and what goes into it."""
    parser.add_argument("file", type=Path, metavar="FILE", help="manifest to write, e.g. my-run.toml")
    parser.add_argument("--name", help="name of the run; default: the file's name without its ending")
    parser.add_argument(
        "--optimizer",
        choices=tuple(OPTIMIZERS),
        default=OptimizerConfig().kind,
        help="inner optimizer, with the learning rate of its kind (%(default)s)",
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--model", choices=tuple(MODELS), help="a GPT of about this many parameters, and a fitting learning rate"
    )
    model.add_argument(
        "--transformers",
        type=Path,
        metavar="CONFIG",
        help="a causal language model of the package transformers, from its config.json; its weights are drawn anew",
    )
    model.add_argument(
        "--task", metavar="NAME", help="vit or vgg on pictures, or a task that an installed package brings"
    )
    parser.add_argument("--list-models", action=_ListModels, nargs=0, help="print sizes and FLOPs of --model, and end")
    parser.add_argument("--force", action="store_true", help="overwrite a file that exists")


def run(args: argparse.Namespace) -> int:
    """Write the manifest; prints the run id and what to do next."""
    path: Path = args.file
    named = build(Manifest, {"name": path.stem if args.name is None else args.name}, "--name")
    manifest = _with_model(replace(named, optimizer=OPTIMIZERS[args.optimizer]), args)
    try:
        with path.open("w" if args.force else "x", encoding="utf-8", newline="\n") as file:
            file.write(manifest_template(manifest))
    except FileExistsError as error:
        raise StoreError(f"{path} exists already; choose another name, or overwrite it with --force") from error
    except FileNotFoundError as error:
        raise StoreError(f"{path}: the folder {path.parent} does not exist; create it first") from error
    except IsADirectoryError as error:
        raise StoreError(f"{path} is a folder; give the name of a file") from error
    shown = shlex.quote(str(path))
    print(f"wrote {path}")
    print(f"run id {run_id(manifest)} (changes with every change you make to the file)")
    print(f"{manifest.model.num_parameters:,} parameters, {manifest.model.flops_per_token / 1e9:.3g} GFLOP a token")
    print()
    print("next:")
    print(f"  edit {shown}")
    print(f"  lowcomm-node config check {shown}       is it sound, and which run is it?")
    print(f"  lowcomm-node join --manifest {shown}    start the run; prints the line others join with")
    return ExitCode.OK


def _with_model(manifest: Manifest, args: argparse.Namespace) -> Manifest:
    if args.model is not None:
        return with_model(manifest, MODELS[args.model])
    if args.transformers is None and args.task is None:
        return manifest
    from lowcomm_node.train.foreign import sized  # imports torch

    tree = asdict(manifest)
    if args.task is not None:
        from lowcomm_node.train.tasks import find_task, manifest_of

        model: dict[str, object] = {"kind": "task", "task": args.task, "parameters": 1}
        for section, values in manifest_of(find_task(args.task)).items():
            tree[section] |= values
        model = {**tree["model"], **model}
    else:
        config = _read_json(args.transformers)
        wanted = {key: config[key] for key in ("vocab_size",) if key in config}
        model = {"kind": "transformers", "config": config, "parameters": 1, **wanted}
    built = build(Manifest, {**tree, "model": model}, str(args.transformers or "--task"))
    return sized(built)


def _read_json(path: Path) -> dict[str, object]:
    """A model's config.json, without what says how somebody else has stored or run it."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: not a JSON object")
    for key in [key for key in config if key in _NOT_OURS or key.startswith("_")]:
        del config[key]
    return config
