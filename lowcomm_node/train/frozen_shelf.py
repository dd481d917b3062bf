"""The frozen factors of one replica that has no daemon: carries out what ``core.frozen`` decides, for swarms in virtual time."""

from hashlib import sha256
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from lowcomm_node.core.commands import SplitTensors, UseFrozen
from lowcomm_node.core.events import FrozenHeld, FrozenRefused, FrozenUsed, SplitFailed
from lowcomm_node.errors import StoreError
from lowcomm_node.train.frozen_file import read_frozen, write_frozen
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import RunId

__all__ = ["FrozenShelf"]

_MOST = 4
"""Files kept: two epochs', each with a second split."""


class FrozenShelf:
    """Splits, keeps files and takes them, as daemon and trainer do between them; the same files, read with the same checks.

    A digest here is the file's SHA-256: nobody downloads it in chunks.
    """

    def __init__(self, replica: Replica, run_id: RunId) -> None:
        self._replica = replica
        self._run_id = run_id
        self.files: dict[str, bytes] = {}
        """By digest, the newest last: its own, and what others have put here."""
        self.rank_ratio = 1.0
        """Share of the rank that is left in those last taken, mean over the tensors that are split."""

    def split(self, command: SplitTensors) -> FrozenHeld | SplitFailed:
        """Write the factors of the live weights."""
        ab = self._replica.ab
        if ab is None:
            return SplitFailed(epoch=command.epoch)
        try:
            with TemporaryDirectory() as folder:
                path = Path(folder, "frozen")
                write_frozen(path, ab.split(self._replica.theta, command.epoch), self._run_id, command.epoch)
                data = path.read_bytes()
        except StoreError:
            return SplitFailed(epoch=command.epoch)
        digest = sha256(data).hexdigest()
        self.files[digest] = data
        return FrozenHeld(epoch=command.epoch, digest=digest, is_own=True)

    def use(self, command: UseFrozen) -> FrozenUsed | FrozenRefused:
        """Train one factor from the next step on."""
        epoch, digest, factor = command.epoch, command.digest, command.factor
        ab, data = self._replica.ab, self.files.get(digest)
        if ab is None or data is None:
            return FrozenRefused(epoch=epoch, digest=digest)
        theta = self._replica.theta
        try:
            with TemporaryDirectory() as folder:
                path = Path(folder, "frozen")
                path.write_bytes(data)
                vectors = read_frozen(path, ab.split_shapes(), self._run_id, epoch)
            ab.take(ab.frozen_of(vectors, theta, epoch=epoch, digest=digest, factor=factor), theta)
        except StoreError:
            return FrozenRefused(epoch=epoch, digest=digest)
        self.rank_ratio = fmean(own.rank / own.V.shape[0] for own in vectors.values()) if vectors else 1.0
        while len(self.files) > _MOST:
            del self.files[next(iter(self.files))]
        return FrozenUsed(epoch=epoch, digest=digest, factor=factor)
