"""What the daemon asks about frozen factors: to split the live weights, and to train by a file from now on."""

from pathlib import Path

from lowcomm_node.errors import StoreError, TrainerError
from lowcomm_node.train.frozen_file import read_frozen, write_frozen
from lowcomm_node.train.messages import Failed, FrozenTaken, FrozenWritten, SplitWeights, TakeFrozen
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import RunId

__all__ = ["serve_frozen"]


def serve_frozen(
    replica: Replica, request: SplitWeights | TakeFrozen, run_id: RunId
) -> FrozenWritten | FrozenTaken | Failed:
    """Carry out one request between two steps. A file that cannot be written, read or believed leaves everything as it was."""
    ab = replica.ab
    if ab is None:
        detail = 'nothing is split in a run with outer.method = "average"'
        return Failed(code=TrainerError.code, detail=detail, is_fatal=False)
    try:
        if isinstance(request, SplitWeights):
            write_frozen(Path(request.path), ab.split(replica.theta, request.epoch), run_id, request.epoch)
            return FrozenWritten(epoch=request.epoch, path=request.path)
        vectors = read_frozen(Path(request.path), ab.split_shapes(), run_id, request.epoch)
        frozen = ab.frozen_of(vectors, replica.theta, epoch=request.epoch, digest=request.digest, factor=request.factor)
    except StoreError as error:
        return Failed(code=error.code, detail=str(error), is_fatal=False)
    replica.take_frozen(frozen)
    return FrozenTaken(epoch=request.epoch, digest=request.digest, factor=request.factor)
