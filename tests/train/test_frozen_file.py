"""The file of frozen factors: back as it was written, and nothing else is believed."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lowcomm_node.algo.frozen import split_vectors
from lowcomm_node.errors import StoreError
from lowcomm_node.settings.manifest import OuterConfig
from lowcomm_node.train.frozen_file import SplitShape, frozen_bytes_bound, read_frozen, write_frozen
from lowcomm_node.train.messages import Failed, FrozenTaken, FrozenWritten, Report, Run, SplitWeights, Stop, TakeFrozen
from lowcomm_node.units import Factor, RunId
from tests.train.frozen import DIGEST, ab_manifest
from tests.train.pairs import RUN, tiny_manifest
from tests.train.test_loop import Clock, ScriptedMailbox, _run

_SHAPES = {"first.weight": SplitShape(12, 8, 4), "second.weight": SplitShape(9, 9, 9)}
_METADATA = {"format": "lowcomm-frozen-1", "run_id": RUN, "epoch": "3"}


def _write(path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = {
        name: split_vectors(torch.randn(shape.m, shape.n, generator=generator), 0.0, shape.largest_rank / shape.n)
        for name, shape in _SHAPES.items()
    }
    write_frozen(path, vectors, RUN, 3)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    """To the bit, in fewer bytes than the bound, and nothing is left beside it."""
    path = tmp_path / "frozen"
    _write(path)

    vectors = read_frozen(path, _SHAPES, RUN, 3)

    stored = load_file(path)
    assert list(vectors) == list(_SHAPES)
    for name, own in vectors.items():
        assert own.rank == _SHAPES[name].largest_rank
        assert torch.equal(own.U, stored[f"U/{name}"])
        assert torch.equal(own.V, stored[f"V/{name}"])
    assert sum(tensor.nbytes for tensor in stored.values()) < path.stat().st_size <= frozen_bytes_bound(_SHAPES)
    assert [file.name for file in tmp_path.iterdir()] == ["frozen"]


def _put(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("damage", "metadata", "words"),
    [
        (lambda tensors: tensors.pop("V/first.weight"), {}, "V/first.weight is missing"),
        (_put("U/third.weight", torch.eye(2)), {}, "'U/third.weight' is not split"),
        (_put("U/first.weight", torch.eye(12, 5)), {}, "its rank is from 1 to 4"),
        (_put("U/first.weight", torch.empty(12, 0)), {}, "its rank is from 1 to 4"),
        (_put("U/first.weight", torch.zeros(12)), {}, "its rank is from 1 to 4"),
        (_put("V/first.weight", torch.eye(8, 3)), {}, r"V/first.weight is torch.float32 \(8, 3\) instead of"),
        (_put("U/first.weight", torch.eye(13, 4)), {}, r"instead of torch.float32 \(12, 4\)"),
        (_put("U/first.weight", torch.eye(12, 4).double()), {}, "is torch.float64"),
        (lambda tensors: tensors["V/second.weight"].fill_(torch.nan), {}, "V/second.weight has values that are not"),
        (lambda tensors: tensors["U/second.weight"].mul_(1.001), {}, "U/second.weight are not orthonormal: 0.002 off"),
        (lambda tensors: tensors["U/second.weight"].fill_(1e30), {}, "not orthonormal: inf off"),
        (lambda tensors: tensors["V/second.weight"][:, 1].copy_(tensors["V/second.weight"][:, 0]), {}, "1 off"),
        (lambda _: None, {"format": "lowcomm-state-1"}, "format 'lowcomm-state-1' instead"),
        (lambda _: None, {"run_id": "cd" * 32}, "they belong to run"),
        (lambda _: None, {"epoch": "2"}, "they are of epoch '2', not 3"),
    ],
)
def test_what_is_wrong_is_said(
    damage: Callable[[dict[str, Tensor]], object], metadata: dict[str, str], words: str, tmp_path: Path
) -> None:
    """Each by itself makes the whole file worthless; the error names the file and what it is."""
    path = tmp_path / "frozen"
    _write(path)
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path, {**_METADATA, **metadata})

    with pytest.raises(StoreError, match=words) as refused:
        read_frozen(path, _SHAPES, RUN, 3)

    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read"),
        (lambda path: path.write_bytes(b"\xff" * 64), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(bytes(100_000)), "100000 bytes, more than"),
    ],
)
def test_what_is_no_such_file_is_refused(spoil: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    """Cut short, nonsense, empty, gone, or too long to be read at all."""
    path = tmp_path / "frozen"
    _write(path)
    spoil(path)

    with pytest.raises(StoreError, match=words):
        read_frozen(path, _SHAPES, RUN, 3)


def test_the_trainer_splits_and_takes(tmp_path: Path) -> None:
    """Between steps: a file, then a factor from the next step on, which reports tell; a file of another epoch changes nothing."""
    path = str(tmp_path / "frozen")
    split = SplitWeights(epoch=1, path=path)
    taking = TakeFrozen(epoch=1, path=path, digest=DIGEST, factor=Factor.B)
    mailbox = ScriptedMailbox(
        (0, Run()),
        (25, split),
        (2, dataclasses.replace(taking, epoch=2)),
        (2, taking),
        (9, Stop(path="")),
    )

    trainer = _run(mailbox, ab_manifest(), clock=Clock(0.02))

    said = [message for message in mailbox.posted if not isinstance(message, Report)]
    assert said[0] == FrozenWritten(epoch=1, path=path)
    assert isinstance(said[1], Failed)
    assert (said[1].code, said[1].is_fatal) == (StoreError.code, False)
    assert "of epoch '1', not 2" in said[1].detail
    assert said[2] == FrozenTaken(epoch=1, digest=DIGEST, factor=Factor.B)
    reports = [message.ab for message in mailbox.reports()]
    assert reports[0] is not None
    assert reports[0].digest == ""
    assert reports[-1] is not None
    assert (reports[-1].digest, reports[-1].factor) == (DIGEST, Factor.B)
    assert trainer._replica.steps == 38


def test_a_run_that_splits_nothing_says_so(tmp_path: Path) -> None:
    """Asked all the same, its trainer goes on; its reports know no stages."""
    mailbox = ScriptedMailbox((0, Run()), (3, SplitWeights(epoch=1, path=str(tmp_path / "x"))), (3, Stop(path="")))

    _run(mailbox, tiny_manifest(outer=OuterConfig(every_steps=0)), clock=Clock(0.02))

    (failed,) = [message for message in mailbox.posted if isinstance(message, Failed)]
    assert not failed.is_fatal
    assert "average" in failed.detail
    assert all(report.ab is None for report in mailbox.reports())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_no_end(tmp_path: Path) -> None:
    """The folder is gone: said, and nothing is left."""
    with pytest.raises(StoreError, match="cannot be written"):
        write_frozen(tmp_path / "gone" / "frozen", {}, RunId(RUN), 1)
