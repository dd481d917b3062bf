"""Digits, CIFAR-10 and folders: what is in them, and that nobody trains on what is held out."""

import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from lowcomm_node.errors import DataError
from lowcomm_node.train.vision.datasets import load_pictures
from lowcomm_node.train.vision.folders import Folders
from lowcomm_node.train.vision.options import PictureOptions
from lowcomm_node.train.vision.pictures import InMemory, Pictures

_CIFAR = PictureOptions(dataset="cifar10")
_FOLDER = PictureOptions(dataset="folder", size=16, classes=("dark", "light"))


def all_of(pictures: Pictures) -> tuple[list[bytes], list[int]]:
    """Their bytes and classes."""
    taken, classes = pictures.take(torch.arange(len(pictures)))
    return [bytes(picture.flatten().tolist()) for picture in taken], classes.tolist()


def test_the_digits_are_all_there_and_split_by_what_they_show() -> None:
    """1797 different ones, held out by hash whatever the order; the first few are some of each class."""
    train, held_out = load_pictures(PictureOptions(), (), 0.2)
    small, same = load_pictures(PictureOptions(examples=100), ("/nowhere",), 0.2)

    (seen, _), (judged, classes) = all_of(train), all_of(held_out)
    assert (len(train), len(held_out)) == (1421, 376)
    assert len({*seen, *judged}) == 1797
    assert set(classes[:60]) == set(range(10))
    assert all_of(small)[0] == seen[:100]
    assert all_of(same) == (judged, classes)
    digest = hashlib.sha256(b"".join(sorted(seen + judged))).hexdigest()
    assert digest.startswith("e85b9b1b49f5f283")  # those of ``sklearn.datasets.load_digits``, times 255 / 16


def write_cifar(folder: Path, records: int = 12) -> None:
    """Two batches and the test batch in CIFAR-10's binary layout: picture k of a file is of class k mod 10 and brightness k."""
    folder.mkdir(parents=True)
    for number, name in enumerate(("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin")):
        red, rest = bytes([200 + number]) * 1024, 2048
        (folder / name).write_bytes(b"".join(bytes([k % 10]) + red + bytes([k]) * rest for k in range(records)))


def test_cifar10_has_its_own_test_batch(tmp_path: Path) -> None:
    """Which is held out; channels come one after the other; the archive's own folder is found, too."""
    write_cifar(tmp_path / "cifar-10-batches-bin")

    for path in (tmp_path, tmp_path / "cifar-10-batches-bin"):
        train, held_out = load_pictures(_CIFAR, (str(path),), 0.5)
        assert (len(train), len(held_out)) == (24, 12)
        pictures, classes = held_out.take(torch.tensor([11, 3]))
        assert pictures.shape == (2, 3, 32, 32)
        assert pictures[:, :, 5, 7].tolist() == [[202, 11, 11], [202, 3, 3]]
        assert classes.tolist() == [1, 3]


def test_cifar10_that_is_none_is_refused(tmp_path: Path) -> None:
    """The Python version with what to take instead; damaged files by name."""
    with pytest.raises(DataError, match=r"needs data\.paths to name one folder"):
        load_pictures(_CIFAR, (), 0.5)
    with pytest.raises(DataError, match=r"binary version \(cifar-10-binary.tar.gz\)"):
        load_pictures(_CIFAR, (str(tmp_path),), 0.5)
    folder = tmp_path / "c"
    write_cifar(folder)
    (folder / "data_batch_2.bin").write_bytes(b"\x0b" + bytes(3072))
    with pytest.raises(DataError, match=r"data_batch_2.bin: class 11"):
        load_pictures(_CIFAR, (str(folder),), 0.5)
    (folder / "data_batch_2.bin").write_bytes(bytes(3074))
    with pytest.raises(DataError, match=r"data_batch_2.bin: 3074 bytes are no records of 3073"):
        load_pictures(_CIFAR, (str(folder),), 0.5)


def write_folders(folder: Path, count: int = 20) -> None:
    """A folder of dark pictures, one of light ones, of several sizes and kinds, and one that is no class."""
    for name, grey in (("dark", 40), ("light", 220), ("other", 130)):
        (folder / name / "deep").mkdir(parents=True)
        for number in range(count):
            picture = Image.new("L" if number % 2 else "RGB", (20 + number, 30), grey if number % 2 else (grey,) * 3)
            picture.save(
                folder / name / ("deep" if number % 3 else ".") / f"{number}.{'png' if number % 4 else 'JPEG'}"
            )
        (folder / name / "notes.txt").write_text("no picture")


def test_folders_are_classes(tmp_path: Path) -> None:
    """By the manifest's order; others are passed over; every picture comes in three colours and one size."""
    write_folders(tmp_path)

    train, held_out = load_pictures(_FOLDER, (str(tmp_path),), 0.3)

    assert len(train) + len(held_out) == 40
    assert len(held_out) > 3
    for part in (train, held_out):
        pictures, classes = part.take(torch.arange(len(part)))
        assert pictures.dtype == torch.uint8
        assert pictures.shape[1:] == (3, 16, 16)
        assert ((pictures.float().mean((1, 2, 3)) > 130).long() == classes).all()
    assert (
        len(
            load_pictures(
                PictureOptions(dataset="folder", size=16, classes=("dark", "light"), examples=5), (str(tmp_path),), 0.3
            )[0]
        )
        == 5
    )


def test_nodes_with_different_folders_hold_out_the_same_pictures(tmp_path: Path) -> None:
    """By class and name: a node that has only some of them never trains on what another one is judged by."""
    write_folders(tmp_path / "all")
    write_folders(tmp_path / "some", 9)
    (tmp_path / "some" / "light").rename(tmp_path / "some" / "gone")

    def names(folder: str) -> tuple[set[str], int]:
        train, held_out = load_pictures(_FOLDER, (str(tmp_path / folder),), 0.3)
        assert isinstance(train, Folders)
        return {path.relative_to(tmp_path / folder).as_posix() for path, _ in train.files}, len(held_out)

    (everything, _), (some, held_out) = names("all"), names("some")
    dark = {path.relative_to(tmp_path / "some").as_posix() for path in (tmp_path / "some" / "dark").rglob("*.[pJ]*")}
    assert some == everything & dark
    assert len(some) + held_out == len(dark) == 9


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """When a batch wants it; a folder without any says so at once."""
    write_folders(tmp_path)
    train, _ = load_pictures(_FOLDER, (str(tmp_path),), 0.3)
    assert isinstance(train, Folders)
    path, _ = train.files[3]
    path.write_bytes(path.read_bytes()[:60])

    with pytest.raises(DataError, match=f"{path.name}: not a picture that can be read"):
        train.take(torch.arange(5))
    with pytest.raises(DataError, match="no pictures in folders named as the run's classes"):
        load_pictures(_FOLDER, (str(tmp_path / "other"),), 0.3)
    with pytest.raises(DataError, match=r"needs data\.paths to name a folder"):
        load_pictures(_FOLDER, (), 0.3)


def test_in_memory_takes_by_place() -> None:
    """In the order asked for."""
    part = InMemory(torch.arange(8, dtype=torch.uint8).view(4, 2, 1, 1), torch.arange(4))
    assert part.take(torch.tensor([2, 0]))[0].flatten().tolist() == [4, 5, 0, 1]
