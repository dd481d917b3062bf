"""The frozen factors of one replica that has no daemon: carries out what ``core.frozen`` decides, for swarms in virtual time."""

from hashlib import sha256
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from lowcomm_node.algo.factors import tall
from lowcomm_node.core.commands import SplitTensors, UseFrozen
from lowcomm_node.core.events import FrozenHeld, FrozenRefused, FrozenUsed, SplitFailed
from lowcomm_node.train.frozen_requests import serve_frozen
from lowcomm_node.train.messages import FrozenTaken, FrozenWritten, SplitWeights, TakeFrozen
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import RunId

__all__ = ["FrozenShelf"]

_LENGTH_BYTES = 8
"""At the start of a safetensors file: how long its header is."""
_MOST = 4
"""Files kept: two epochs', each with a second split."""


class FrozenShelf:
    """Splits, keeps files and takes them, as daemon and trainer do between them; the same files, read with the same checks.

    A digest here is that of epoch and numbers: safetensors writes a file's metadata in an order of chance, and the same seed is to
    give the same run.
    """

    def __init__(self, replica: Replica, run_id: RunId) -> None:
        self._replica = replica
        self._run_id = run_id
        self.files: dict[str, bytes] = {}
        """By digest, the newest last: its own, and what others have put here."""
        self._taken = ""

    @property
    def rank_ratio(self) -> float:
        """Share of the rank that is left in those last taken, mean over the tensors that are split; 1 before."""
        ab, theta = self._replica.ab, self._replica.theta
        frozen = ab.find(self._taken) if ab is not None else None
        if frozen is None or not frozen.tensors:
            return 1.0
        return fmean(F.shape[1] / min(tall(theta[position]).shape) for position, F in frozen.tensors.items())

    def split(self, command: SplitTensors) -> FrozenHeld | SplitFailed:
        """Write the factors of the live weights."""
        with TemporaryDirectory() as folder:
            path = Path(folder, "frozen")
            done = serve_frozen(self._replica, SplitWeights(epoch=command.epoch, path=str(path)), self._run_id)
            if not isinstance(done, FrozenWritten):
                return SplitFailed(epoch=command.epoch)
            data = path.read_bytes()
        header_bytes = int.from_bytes(data[:_LENGTH_BYTES], "little")
        digest = sha256(b"%d|" % command.epoch + data[_LENGTH_BYTES + header_bytes :]).hexdigest()
        self.files[digest] = data
        return FrozenHeld(epoch=command.epoch, digest=digest, is_own=True)

    def use(self, command: UseFrozen) -> FrozenUsed | FrozenRefused:
        """Train one factor from the next step on."""
        epoch, digest, factor = command.epoch, command.digest, command.factor
        with TemporaryDirectory() as folder:
            path = Path(folder, "frozen")
            path.write_bytes(self.files.get(digest, b""))  # no file is one that cannot be read
            done = serve_frozen(
                self._replica, TakeFrozen(epoch=epoch, path=str(path), digest=digest, factor=factor), self._run_id
            )
        while len(self.files) > _MOST:
            del self.files[next(iter(self.files))]
        if isinstance(done, FrozenTaken):
            self._taken = digest
            return FrozenUsed(epoch=epoch, digest=digest, factor=factor)
        return FrozenRefused(epoch=epoch, digest=digest)
