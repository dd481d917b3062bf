"""The three data sets: handwritten digits, CIFAR-10, and folders of pictures. What is held out is the same on all nodes."""

import gzip
import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lowcomm_node.errors import ConfigError, DataError
from lowcomm_node.train.data.held_out import is_held_out
from lowcomm_node.train.vision.folders import load_folders
from lowcomm_node.train.vision.options import PictureOptions
from lowcomm_node.train.vision.pictures import InMemory, Pictures

__all__ = ["load_pictures"]

_DIGITS = Path("datasets", "data", "digits.csv.gz")
"""In scikit-learn's folder. Its own ``load_digits`` gives the same, after importing 150 MB of what is not needed here."""
_BRIGHTEST_DIGIT = 16
_RECORD = 1 + 3 * 32 * 32
"""CIFAR-10: the class, then red, green and blue, row by row."""
_TEST_FILE = "test_batch.bin"


def load_pictures(options: PictureOptions, paths: Sequence[str], validation_ratio: float) -> tuple[Pictures, Pictures]:
    """To train on, and held out; the latter well mixed. Raises ConfigError for a package that is missing, DataError for data."""
    match options.dataset:
        case "digits":
            return _digits(validation_ratio, options.examples)
        case "cifar10":
            return _cifar10(paths, options.examples)
        case _:
            return load_folders(options, paths, validation_ratio)


def _digits(validation_ratio: float, examples: int) -> tuple[InMemory, InMemory]:
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            'dataset = "digits" needs the package scikit-learn, which brings them: pip install "lowcomm-node[vision]"'
        )
    path = Path(found.submodule_search_locations[0]) / _DIGITS
    try:
        lines = gzip.decompress(path.read_bytes()).decode("ascii").split()
        table = torch.tensor([[int(float(number)) for number in line.split(",")] for line in lines])
        pictures, classes = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1]
    except (OSError, EOFError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: these are not scikit-learn's digits: {error}") from error
    whole = InMemory((pictures * 255 // _BRIGHTEST_DIGIT).to(torch.uint8), classes)
    # By what a picture shows, so that one which is there twice is on one side; the order is that of the hashes, which is none.
    names = [hashlib.sha256(bytes(picture.flatten().tolist())).hexdigest() for picture in pictures]
    order = sorted(range(len(names)), key=names.__getitem__)
    held_out = [place for place in order if is_held_out(names[place], validation_ratio)]
    train = [place for place in order if not is_held_out(names[place], validation_ratio)]
    return InMemory(*whole.take(_places(train, examples))), InMemory(*whole.take(_places(held_out)))


def _cifar10(paths: Sequence[str], examples: int) -> tuple[InMemory, InMemory]:
    """Its own test batch is held out: whoever has the data set has that."""
    if len(paths) != 1:
        raise DataError('dataset = "cifar10" needs data.paths to name one folder, with the binary version of CIFAR-10')
    folder = Path(paths[0]).expanduser()
    folder = folder if (folder / _TEST_FILE).exists() else folder / "cifar-10-batches-bin"
    batches = sorted(folder.glob("data_batch_*.bin"))
    if not batches or not (folder / _TEST_FILE).exists():
        raise DataError(
            f"{paths[0]}: no data_batch_1.bin and {_TEST_FILE} in there; CIFAR-10 is read in its binary version "
            "(cifar-10-binary.tar.gz), because the Python version is pickled and could run code"
        )
    parts = [_read_records(path) for path in batches]
    train = InMemory(torch.cat([p.pictures for p in parts]), torch.cat([p.classes for p in parts]))
    return InMemory(*train.take(_places(range(len(train)), examples))), _read_records(folder / _TEST_FILE)


def _read_records(path: Path) -> InMemory:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    if not data or len(data) % _RECORD:
        raise DataError(
            f"{path}: {len(data)} bytes are no records of {_RECORD}, so this is not CIFAR-10's binary version"
        )
    records = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, _RECORD)
    classes = records[:, 0].long()
    if int(classes.max()) > 9:
        raise DataError(f"{path}: class {int(classes.max())}, but CIFAR-10 has 0 to 9")
    return InMemory(records[:, 1:].reshape(-1, 3, 32, 32), classes)


def _places(places: Sequence[int], most: int = 0) -> Tensor:
    return torch.tensor(places[: most or None], dtype=torch.int64)
