"""What ``lowcomm-node export`` does: states of several nodes, from their disks or from themselves, become one model and its card."""

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lowcomm_node.adapters.run_memory import RunMemory
from lowcomm_node.cli.common import invitation, state_dir_of
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.model_card import Card, CardMember, model_card
from lowcomm_node.cli.words import count, printable
from lowcomm_node.errors import ConfigError, DataError, LowcommError, StoreError
from lowcomm_node.settings.manifest import BYTES, UNKNOWN_TOKENIZER, Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.train.data.tokenizer import choose_encoder
from lowcomm_node.train.exported import Consensus, write_exported
from lowcomm_node.train.judge import Judge, Judgement
from lowcomm_node.units import PeerId, RunId

if TYPE_CHECKING:
    from torch import Tensor

    from lowcomm_node.daemon.run_finder import FoundRun

__all__ = ["Export", "export_from_network", "export_from_nodes"]

_PROMPT = ' --prompt "..."'
_MEMBERS = 3
"""Of a swarm: enough to be judged by one another, and few enough to be fetched over a line at home."""


class Export:
    """One model on its way from states to a folder.

    Args:
        folder: to be made.
        settings: of this machine: where it has the run's tokenizer, and data to judge by.
        is_judged: measure losses for the card, where there are data.
    """

    def __init__(self, folder: Path, settings: NodeSettings, *, is_judged: bool) -> None:
        self.folder = folder
        self.settings = settings
        self._is_judged = is_judged
        self._why_not = "not measured"
        self._judge: Judge | None = None
        self._tokenizer: Path | None = None

    def open(self, manifest: Manifest, run: RunId) -> Consensus:
        """Begin with this run. Raises ConfigError for a model that cannot be built here, DataError for another tokenizer than the run's."""
        self._manifest, self._run = manifest, run
        self._tokenizer = _tokenizer(manifest, self.settings.data.tokenizer)
        if self._is_judged:
            try:
                self._judge = Judge(manifest, run, self.settings, self._tokenizer)
            except (ConfigError, DataError, StoreError) as error:
                self._why_not = f"not measured: {error}"
        self.consensus = Consensus(manifest, run, self._loss)
        return self.consensus

    def write(self, num_wanted: int) -> int:
        """The folder, and a few words on what is in it. Raises ConfigError and StoreError."""
        manifest, run, consensus = self._manifest, self._run, self.consensus
        parameters = consensus.parameters()
        judgement = self._judged(parameters)
        judged = self._why_not if judgement is None else judgement.sentence()
        members = [
            CardMember(
                peer=taken.peer,
                progress_steps=taken.counters.progress_steps,
                steps=taken.counters.steps,
                tokens=taken.counters.tokens,
                loss=taken.judged,
            )
            for taken in consensus.taken
        ]
        card = Card(
            day=datetime.now(UTC).date().isoformat(),
            members=members,
            num_wanted=num_wanted,
            spread=consensus.spread,
            judged=judged,
            data=self.settings.data,
        )
        write_exported(self.folder, manifest, parameters, model_card(manifest, run, card), self._tokenizer)
        size, nodes = f"{manifest.model.num_parameters:,} parameters", count(len(members), "node")
        print(f"{self.folder}: {size}, the mean of {nodes} of run {run[:12]}")
        if len(members) < num_wanted:
            print(f"{num_wanted} nodes were asked for; no others could be had")
        for member in members if len(members) > 1 else ():
            loss = "" if member.loss is None else f", held-out loss {member.loss:.4f}"
            print(f"  {member.peer}: progress {member.progress_steps:,.0f}, {member.tokens:,} tokens of its own{loss}")
        print(f"held out: {judged}")
        is_task = manifest.model.kind == "task"
        print(
            f"try it: lowcomm-node {'eval' if is_task else 'generate'} --model {self.folder}{'' if is_task else _PROMPT}"
        )
        return ExitCode.OK

    def _loss(self, parameters: Mapping[str, "Tensor"]) -> float | None:
        judgement = self._judged(parameters)
        return None if judgement is None else judgement.loss

    def _judged(self, parameters: Mapping[str, "Tensor"]) -> Judgement | None:
        """None where it cannot be told; what was fetched over the network is not lost for that."""
        if self._judge is None:
            return None
        try:
            return self._judge.judge_parameters(parameters)
        except RuntimeError as error:  # torch's word for a device that fails or has too little memory
            self._judge, self._why_not = None, f"not measured: {str(error).splitlines()[0]}"
            return None


def _tokenizer(manifest: Manifest, file_name: str) -> Path | None:
    """The run's, where it has one and the settings name it. Raises DataError for another one."""
    if manifest.model.kind == "task" or manifest.data.tokenizer in (BYTES, UNKNOWN_TOKENIZER) or not file_name:
        return None
    choose_encoder(manifest, file_name)
    return Path(file_name).expanduser()


def export_from_nodes(export: Export, sources: Sequence[Path] | None) -> int:
    """The newest checkpoints in these state directories, or in this machine's own."""
    from lowcomm_node.adapters.checkpoint_store import newest_state_file
    from lowcomm_node.adapters.identity import load_or_create
    from lowcomm_node.settings.canonical import manifest_from_canonical
    from lowcomm_node.wire.limits import MAX_MANIFEST_BYTES

    sources = sources or [state_dir_of(export.settings)]
    runs = {source: RunMemory(source).load() for source in sources}
    for source, remembered in runs.items():
        if remembered is None or not newest_state_file(source).is_file():
            raise StoreError(f"{source}: no node has left a checkpoint there; name state directories with --from")
    known = [remembered for remembered in runs.values() if remembered is not None]
    if len({remembered.run_id for remembered in known}) > 1:
        raise ConfigError(
            "these nodes were in different runs: " + ", ".join(f"{s} in {r.run_id[:12]}" for s, r in runs.items() if r)
        )
    manifest = manifest_from_canonical(known[0].manifest, MAX_MANIFEST_BYTES, str(sources[0]))
    consensus = export.open(manifest, known[0].run_id)
    for source in sources:
        consensus.take(newest_state_file(source), load_or_create(source / "identity.key").peer_id)
    return export.write(len(sources))


def export_from_network(export: Export, args: argparse.Namespace) -> int:
    """The states of members of a run, which are asked for them."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # as in 'join'
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from lowcomm_node.daemon.gathering import Visit, visit
    from lowcomm_node.telemetry.logs import configure

    configure("error", "auto")  # what is worth knowing is told by the lines below
    state_dir = state_dir_of(export.settings)
    peers, wanted_run = tuple(args.peers or os.environ.get("LOWCOMM_PEERS", "").replace(",", " ").split()), args.run
    if not peers:
        peers, remembered_run = _known_peers(state_dir)
        wanted_run = wanted_run or remembered_run
    num_members = args.members or _MEMBERS
    downloads = export.folder.with_name(f".{export.folder.name}.download")
    screen = _Screen()
    try:
        downloads.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError(f"{downloads}: cannot be made a folder for downloads: {error.strerror}") from error

    def open_consensus(found: "FoundRun") -> Consensus:
        return export.open(found.manifest, found.run_id)

    try:
        with TemporaryDirectory(prefix="lowcomm-export-") as scratch:
            told = Visit(
                peers=peers,
                wanted_run=wanted_run,
                invite=invitation(args.invite),
                num_members=num_members,
                settings=export.settings,
                state_dir=state_dir,
                scratch=Path(scratch),
                downloads=downloads,
            )
            asyncio.run(visit(told, open_consensus, screen.say, screen))
    except BaseException:
        if not any(downloads.iterdir()):
            downloads.rmdir()
        raise
    finally:
        screen.clear()
    shutil.rmtree(downloads, ignore_errors=True)
    return export.write(num_members)


def _known_peers(state_dir: Path) -> tuple[tuple[str, ...], str]:
    """Addresses that this machine's node has, its own first where it runs, and its run. Raises ConfigError where there is none."""
    from lowcomm_node.daemon.control import ControlClient

    remembered = RunMemory(state_dir).load()
    peers = remembered.peers if remembered is not None else ()
    try:
        with ControlClient(state_dir) as client:
            status = client.status()
    except (LowcommError, PermissionError):
        pass  # none that runs
    else:
        own = (status.join_address,) if status.join_address else ()
        return tuple(dict.fromkeys((*own, *peers))), status.run_id
    if remembered is None or not peers:
        raise ConfigError("this machine's node knows no member of a run: give --peers ADDRESS of one")
    return peers, remembered.run_id


class _Screen:
    """What happens, for a person: one line that changes on a terminal, and a line for each member. Implements ``DonorLedger``."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._said = ""

    def say(self, text: str) -> None:
        """Where it stands."""
        text = printable(text)
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r{text[:width]:<{width}}")
            sys.stderr.flush()
        elif (kind := text.partition(": ")[0]) != self._said:  # bytes that move are for who looks on
            self._said = kind
            self._line(text)

    def clear(self) -> None:
        """Nothing more is said."""
        if self._is_terminal:
            sys.stderr.write(f"\r{'':<{shutil.get_terminal_size().columns - 1}}\r")

    def donor_failed(self, donor: PeerId, detail: str) -> None:
        self._line(f"{donor} gives no state: {printable(detail)}")

    def state_refused(self, donor: PeerId, reason: str, detail: str, *, was_downloaded: bool) -> None:
        del was_downloaded
        self._line(f"the state of {donor} is not taken ({reason}): {printable(detail)}")

    def state_downloaded(self, donor: PeerId, progress_steps: float, compared_with: int) -> None:
        compared = (
            f"compared with {count(compared_with, 'other')}" if compared_with else "too few others to compare with"
        )
        self._line(f"{donor}: state of progress {progress_steps:,.0f} taken, {compared}")

    def _line(self, text: str) -> None:
        self.clear()
        sys.stderr.write(text + "\n")
