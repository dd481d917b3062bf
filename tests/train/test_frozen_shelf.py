"""What a simulated node does with frozen factors: splits, hands files on, and takes what fits."""

import math

import pytest
import torch

from lowcomm_node.core.commands import SplitTensors, UseFrozen
from lowcomm_node.core.events import FrozenHeld, FrozenRefused, FrozenUsed, SplitFailed
from lowcomm_node.train.frozen_shelf import FrozenShelf
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Factor
from tests.train.frozen import ab_manifest, held
from tests.train.pairs import RUN

_CPU = torch.device("cpu")


def _shelves(count: int) -> list[tuple[Replica, FrozenShelf]]:
    replicas = [Replica(ab_manifest(), _CPU) for _ in range(count)]
    return [(replica, FrozenShelf(replica, RUN)) for replica in replicas]


def test_what_one_has_split_another_takes() -> None:
    """The file alone travels; the rank that is left is told from what was taken."""
    (_, giver), (replica, taker) = _shelves(2)
    assert taker.rank_ratio == 1.0

    kept = giver.split(SplitTensors(epoch=1))
    assert isinstance(kept, FrozenHeld)
    taker.files[kept.digest] = giver.files[kept.digest]
    used = taker.use(UseFrozen(epoch=1, digest=kept.digest, factor=Factor.B))

    assert used == FrozenUsed(epoch=1, digest=kept.digest, factor=Factor.B)
    assert held(replica, kept.digest).factor is Factor.B
    assert taker.rank_ratio == pytest.approx(0.5)


def test_the_same_weights_have_the_same_digest_and_another_epoch_another() -> None:
    """A run is repeated to the bit, though the file's header is not."""
    (_, one), (_, other) = _shelves(2)

    first, again = one.split(SplitTensors(epoch=1)), other.split(SplitTensors(epoch=1))
    later = other.split(SplitTensors(epoch=2))

    assert first == again
    assert isinstance(first, FrozenHeld)
    assert isinstance(later, FrozenHeld)
    assert first.digest != later.digest


def test_what_is_no_use_is_refused() -> None:
    """A file that is not here, is none, or is another epoch's; and weights that are not finite are not split."""
    ((replica, shelf),) = _shelves(1)
    kept = shelf.split(SplitTensors(epoch=1))
    assert isinstance(kept, FrozenHeld)
    shelf.files["rubbish"] = b"rubbish"

    for epoch, digest in ((1, "nowhere"), (1, "rubbish"), (2, kept.digest)):
        used = shelf.use(UseFrozen(epoch=epoch, digest=digest, factor=Factor.A))
        assert used == FrozenRefused(epoch=epoch, digest=digest)
    assert replica.ab is not None
    replica.theta[replica.ab.positions[0]].fill_(math.nan)
    assert shelf.split(SplitTensors(epoch=2)) == SplitFailed(epoch=2)


def test_old_files_are_let_go() -> None:
    """However many epochs a run has, a node keeps a few files, the newest among them."""
    ((_, shelf),) = _shelves(1)
    digests = []
    for epoch in range(1, 9):
        kept = shelf.split(SplitTensors(epoch=epoch))
        assert isinstance(kept, FrozenHeld)
        digests.append(kept.digest)
        shelf.use(UseFrozen(epoch=epoch, digest=kept.digest, factor=Factor.A))

    assert len(shelf.files) <= 4
    assert digests[-1] in shelf.files
