"""``lowcomm-node export``: the model of a run, as a folder that others can use."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from lowcomm_node.cli.common import add_settings_arguments, settings_from, state_dir_of
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.model_card import CardMember, model_card
from lowcomm_node.cli.words import count
from lowcomm_node.errors import ConfigError, DataError, StoreError
from lowcomm_node.settings.manifest import BYTES, UNKNOWN_TOKENIZER, Manifest

__all__ = ["add_arguments", "run"]

_PROMPT = ' --prompt "..."'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where from and where to."""
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the folder to make: weights, manifest, tokenizer, model card"
    )
    parser.add_argument(
        "--from",
        dest="sources",
        action="append",
        type=Path,
        metavar="DIR",
        help="state directory of a node, whose newest checkpoint is taken; repeatable: the model is then the mean of the nodes "
        "(default: the state directory of this machine's node)",
    )
    parser.add_argument("--no-eval", action="store_true", help="do not measure the loss on held-out data for the card")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Read, average, judge, write."""
    from lowcomm_node.adapters.checkpoint_store import newest_state_file
    from lowcomm_node.adapters.identity import load_or_create
    from lowcomm_node.adapters.run_memory import RunMemory
    from lowcomm_node.settings.canonical import manifest_from_canonical
    from lowcomm_node.train.exported import member_of, write_exported
    from lowcomm_node.wire.limits import MAX_MANIFEST_BYTES

    settings, _ = settings_from(args)
    if args.folder.exists():
        raise StoreError(f"{args.folder} is there already; name a folder that is not")
    sources = args.sources or [state_dir_of(settings)]
    runs = {source: RunMemory(source).load() for source in sources}
    for source, remembered in runs.items():
        if remembered is None or not newest_state_file(source).is_file():
            raise StoreError(f"{source}: no node has left a checkpoint there; name state directories with --from")
    known = [remembered for remembered in runs.values() if remembered is not None]
    if len({remembered.run_id for remembered in known}) > 1:
        raise ConfigError(
            "these nodes were in different runs: " + ", ".join(f"{s} in {r.run_id[:12]}" for s, r in runs.items() if r)
        )
    run_id = known[0].run_id
    manifest = manifest_from_canonical(known[0].manifest, MAX_MANIFEST_BYTES, str(sources[0]))
    members = [
        member_of(newest_state_file(source), load_or_create(source / "identity.key").peer_id, manifest, run_id)
        for source in sources
    ]
    tokenizer = _tokenizer(manifest, settings.data.tokenizer)
    listed = [
        CardMember(
            peer=member.peer,
            progress_steps=member.counters.progress_steps,
            steps=member.counters.steps,
            tokens=member.counters.tokens,
        )
        for member in members
    ]
    day = datetime.now(UTC).date().isoformat()
    write_exported(args.folder, manifest, members, model_card(manifest, run_id, listed, day, "not measured"), tokenizer)
    judged = "not measured"
    if not args.no_eval:
        try:
            from lowcomm_node.cli.commands.eval import judge

            judged = judge(args.folder, settings).sentence()
        except (ConfigError, DataError) as error:
            judged = f"not measured: {error}"
        (args.folder / "README.md").write_text(model_card(manifest, run_id, listed, day, judged))
    size, nodes = f"{manifest.model.num_parameters:,} parameters", count(len(members), "node")
    print(f"{args.folder}: {size}, the mean of {nodes} of run {run_id[:12]}")
    print(f"held out: {judged}")
    is_task = manifest.model.kind == "task"
    print(f"try it: lowcomm-node {'eval' if is_task else 'generate'} --model {args.folder}{'' if is_task else _PROMPT}")
    return ExitCode.OK


def _tokenizer(manifest: Manifest, file_name: str) -> Path | None:
    """The run's, where it has one and the settings name it. Raises DataError for another one."""
    if manifest.model.kind == "task" or manifest.data.tokenizer in (BYTES, UNKNOWN_TOKENIZER) or not file_name:
        return None
    from lowcomm_node.train.data.tokenizer import choose_encoder

    choose_encoder(manifest, file_name)
    return Path(file_name).expanduser()
