"""A node's checkpoints on disk: numbered folders, the newest few of them kept, what cannot be used moved aside.

What is in a folder is the trainer's business (``train.checkpoint``); here only its small JSON file is read. All methods are
quick, but for deleting: call them from a thread. One node owns the directory (``daemon.lock``).
"""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lowcomm_node.core.places import Fullness
from lowcomm_node.errors import StoreError
from lowcomm_node.ports import StoredCheckpoint
from lowcomm_node.settings.node import CheckpointSettings
from lowcomm_node.units import RunId
from lowcomm_node.wire.checkpoint import FACTS_FILE, MAX_FACTS_BYTES, STATE_FILE, CheckpointFacts, decode_facts

__all__ = ["CheckpointStore", "newest_state_file"]

_FOLDER = "checkpoints"
_NUMBERED = re.compile(r"(\d{8})(?:\.[a-z0-9-]+)?")
"""00000012 is a checkpoint; 00000012.refused was one, and cannot be used."""
_MAX_ASIDE = 2
"""Of what cannot be used this many stay, for whoever wants to look, or to return to another run."""


class CheckpointStore:
    """Implements ``ports.Checkpoints``, and decides where the next one goes and which ones go."""

    def __init__(self, state_dir: Path, settings: CheckpointSettings, warn: Callable[[str, Path, str], None]) -> None:
        """``warn`` gets what happened in one word, where, and a sentence."""
        self._folder = state_dir / _FOLDER
        self._settings = settings
        self._warn = warn
        self.used = Fullness(0, settings.max_bytes)
        """Bytes of all folders, as of the last look; a limit of 0 is none."""

    def clear_leftovers(self) -> None:
        """Remove what a life of this node that was killed has left half written."""
        for unfinished in self._folder.glob(".*.unfinished"):
            shutil.rmtree(unfinished, ignore_errors=True)
        self._measure()

    def candidates(self, run_id: RunId) -> tuple[StoredCheckpoint, ...]:
        """Checkpoints of this run, the newest first; others are moved aside, with a message each."""
        found: list[StoredCheckpoint] = []
        for folder in reversed(self._checkpoints()):
            try:
                facts = _facts(folder)
            except StoreError as error:
                self.set_aside(folder, "unreadable", str(error))
                continue
            if facts.run_id == run_id:
                found.append(StoredCheckpoint(path=folder, progress_steps=facts.progress_steps, steps=facts.steps))
            else:
                self.set_aside(folder, f"run-{facts.run_id[:12]}", f"it is of another run, {facts.run_id}")
        return tuple(found)

    def set_aside(self, path: Path, why: str, detail: str) -> None:
        """Keep a checkpoint that cannot be used out of the way, and say so; of several, the oldest go."""
        kept = path.with_name(f"{path.name}.{why}")
        try:
            shutil.rmtree(kept, ignore_errors=True)
            path.rename(kept)
        except OSError as error:
            self._warn("checkpoint_not_usable", path, f"{detail}; moving it out of the way failed: {error}")
            return
        self._warn("checkpoint_set_aside", path, f"{detail}; it is now {kept.name}, and the one before is used")
        for folder in self._aside()[:-_MAX_ASIDE]:
            self._remove(folder)

    def fits(self, num_bytes: int) -> bool:
        """Does the cap allow a single checkpoint of this size?"""
        return not self._settings.max_bytes or num_bytes <= self._settings.max_bytes

    def begin(self, num_bytes: int) -> Path:
        """The folder for the next checkpoint, of about this size; makes room for it under the cap, but never by the newest.

        Raises StoreError when there is no room under the cap for a single one, or not enough on the disk: nothing was
        removed then.
        """
        cap = self._settings.max_bytes
        if not self.fits(num_bytes):
            raise StoreError(
                f"a checkpoint takes {num_bytes} bytes, checkpoint.max_bytes allows {cap}: raise it, or what this node has "
                "not yet shared in meetings is lost whenever it ends"
            )
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise StoreError(f"{self._folder}: no place for checkpoints: {error}") from error
        if free < num_bytes:
            raise StoreError(f"{self._folder}: a checkpoint takes {num_bytes} bytes, the disk has {free} left")
        number = 1 + max((_number(folder) for folder in self._numbered()), default=0)
        self._keep(self._settings.keep, cap - num_bytes if cap else None)
        return self._folder / _name(number)

    def ended(self) -> None:
        """The checkpoint that was begun is there, or is not: keep as many as the settings say."""
        self._keep(self._settings.keep, self._settings.max_bytes or None)
        self._measure()

    def _keep(self, count: int, max_bytes: int | None) -> None:
        """Remove the oldest until there are ``count``, in ``max_bytes`` together with what was set aside; never the newest."""
        checkpoints = self._checkpoints()
        for folder in checkpoints[:-count]:
            self._remove(folder)
        dispensable = [*self._aside(), *checkpoints[-count:-1]]
        if max_bytes is None:
            return
        total = sum(_size(folder) for folder in (*dispensable, *checkpoints[-1:]))
        for folder in dispensable:
            if total <= max_bytes:
                break
            total -= _size(folder)
            self._remove(folder)

    def _measure(self) -> None:
        with suppress(OSError):  # for people only
            self.used = Fullness(sum(_size(folder) for folder in self._numbered()), self._settings.max_bytes)

    def _remove(self, folder: Path) -> None:
        """Under another name first: whatever interrupts it, half a checkpoint is never taken for one."""
        doomed = folder.with_name(f".{folder.name}.unfinished")
        try:
            folder.rename(doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            self._warn("checkpoint_not_removed", folder, str(error))

    def _checkpoints(self) -> list[Path]:
        """Oldest first."""
        return [folder for folder in self._numbered() if "." not in folder.name]

    def _aside(self) -> list[Path]:
        """Oldest first."""
        return [folder for folder in self._numbered() if "." in folder.name]

    def _numbered(self) -> list[Path]:
        return _numbered(self._folder)


def newest_state_file(state_dir: Path) -> Path:
    """The tensors of the newest checkpoint in a node's state directory; with none there, where those of the first will be."""
    folder = state_dir / _FOLDER
    whole = [numbered for numbered in _numbered(folder) if "." not in numbered.name]
    return (whole[-1] if whole else folder / _name(1)) / STATE_FILE


def _numbered(folder: Path) -> list[Path]:
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted((entry for entry in entries if _NUMBERED.fullmatch(entry.name)), key=_number)


def _name(number: int) -> str:
    return f"{number:08d}"


def _number(folder: Path) -> int:
    return int(folder.name[:8])


def _facts(folder: Path) -> CheckpointFacts:
    try:
        with (folder / FACTS_FILE).open("rb") as file:
            return decode_facts(file.read(MAX_FACTS_BYTES + 1))
    except OSError as error:
        raise StoreError(str(error)) from error


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
