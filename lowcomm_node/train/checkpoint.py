"""A checkpoint: a folder with a node's whole training state, written for its own restart.

It has its name only when all of it is on disk, so whatever ends the machine leaves the one before it as it was.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowcomm_node.errors import StoreError
from lowcomm_node.train.state_file import TensorSpec, TrainingState, check_finite, read_state, sync_folder, write_state
from lowcomm_node.units import MeetingId, RunId, Stream
from lowcomm_node.wire.checkpoint import (
    FACTS_FILE,
    MAX_FACTS_BYTES,
    STATE_FILE,
    CheckpointFacts,
    decode_facts,
    encode_facts,
)

__all__ = ["MeetingMemory", "read_checkpoint", "write_checkpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeetingMemory:
    """What a node knows from its meetings that is not in the tensors; fields as in ``CheckpointFacts``."""

    due: Mapping[Stream, int] = field(default_factory=dict)
    applied_meetings: tuple[MeetingId, ...] = ()
    learnt: Mapping[str, Any] = field(default_factory=dict)


def write_checkpoint(folder: Path, state: TrainingState, run_id: RunId, memory: MeetingMemory) -> None:
    """Make ``folder``, which must not exist yet, or leave nothing.

    Raises StoreError naming it; also for a state that is not finite, which could not be read again, and shall take the place
    of none that can.
    """
    # In the same place: a rename is atomic only within one file system.
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        check_finite(state)
        shutil.rmtree(unfinished, ignore_errors=True)  # of a trainer that was killed
        unfinished.mkdir(mode=0o700)
        state_file = unfinished / STATE_FILE
        write_state(state_file, state, run_id)
        facts = CheckpointFacts(
            run_id=run_id,
            progress_steps=state.counters.progress_steps,
            steps=state.counters.steps,
            state_bytes=state_file.stat().st_size,
            state_sha256=_sha256(state_file),
            due=memory.due,
            applied_meetings=memory.applied_meetings,
            learnt=memory.learnt,
        )
        with (unfinished / FACTS_FILE).open("wb") as file:
            file.write(encode_facts(facts))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(unfinished)
        if folder.exists():
            raise StoreError("it is there already")
        unfinished.rename(folder)
        sync_folder(folder.parent)
    except (OSError, StoreError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise StoreError(f"{folder}: checkpoint cannot be written: {error}") from error


def read_checkpoint(
    folder: Path, run_id: RunId, layout: Mapping[str, TensorSpec]
) -> tuple[TrainingState, MeetingMemory]:
    """Read and verify a checkpoint of this run: both files whole, every byte as it was written, tensors as ``read_state`` wants.

    Raises StoreError naming the folder and the first thing wrong.
    """
    state_file, facts_file = folder / STATE_FILE, folder / FACTS_FILE
    try:
        with facts_file.open("rb") as file:
            facts = decode_facts(file.read(MAX_FACTS_BYTES + 1))
        if facts.run_id != run_id:
            raise StoreError(f"it belongs to run {facts.run_id}, not {run_id}")
        size = state_file.stat().st_size
        if size != facts.state_bytes:
            raise StoreError(f"{STATE_FILE} has {size} bytes instead of {facts.state_bytes}")
        if _sha256(state_file) != facts.state_sha256:
            raise StoreError(f"{STATE_FILE} is damaged: its digest is another")
        state = read_state(state_file, run_id, layout)
    except (OSError, StoreError) as error:
        raise StoreError(f"{folder}: checkpoint refused: {error}") from error
    counters = state.counters
    if (counters.progress_steps, counters.steps) != (facts.progress_steps, facts.steps):
        raise StoreError(f"{folder}: checkpoint refused: its two files are of different states")
    return state, MeetingMemory(due=facts.due, applied_meetings=facts.applied_meetings, learnt=facts.learnt)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
