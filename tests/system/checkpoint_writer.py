"""Writes checkpoints as fast as it can until it is killed. Arguments: state directory, megabytes of each, how many to keep.

Says "written N" after each. The state is the same shape every time, and its every number says which checkpoint it belongs to.
"""

import sys
from pathlib import Path

import torch

from lowcomm_node.adapters.checkpoint_store import CheckpointStore
from lowcomm_node.settings.node import CheckpointSettings
from lowcomm_node.train.checkpoint import MeetingMemory, write_checkpoint
from lowcomm_node.train.state_file import Counters, TensorSpec, TrainingState
from lowcomm_node.units import RunId

RUN = RunId("ab" * 32)


def layout(megabytes: int) -> dict[str, TensorSpec]:
    """A few tensors of a megabyte each."""
    return {f"params/{index}": TensorSpec((1 << 18,), torch.float32) for index in range(megabytes)}


def main(state_dir: Path, megabytes: int, keep: int) -> None:
    store = CheckpointStore(state_dir, CheckpointSettings(keep=keep), lambda *words: print(*words, file=sys.stderr))
    store.clear_leftovers()
    known = store.candidates(RUN)
    steps = known[0].steps if known else 0
    while True:
        steps += 1
        tensors = {key: torch.full(spec.shape, float(steps)) for key, spec in layout(megabytes).items()}
        state = TrainingState(tensors=tensors, counters=Counters(steps=steps, progress_steps=float(steps)))
        write_checkpoint(store.begin(megabytes << 20), state, RUN, MeetingMemory())
        store.ended()
        print("written", steps, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
