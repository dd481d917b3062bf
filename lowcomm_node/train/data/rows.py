"""The texts of a dataset, streamed by the package ``datasets`` from a hub, a folder or files."""

import glob
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from lowcomm_node.errors import DataError
from lowcomm_node.settings.node import DataSettings

__all__ = ["Rows", "check_dataset", "open_rows", "open_validation_rows", "prepare_reader", "texts_of"]

_BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}
_SAVED = ("state.json", "dataset_dict.json")
"""What ``save_to_disk`` leaves in a folder."""
_SHARDS_OF_SAVED = 64
_VALIDATION = "validation"
"""As the package names such a split, whatever the files are called."""


class Rows(Protocol):
    """What is used of a ``datasets.IterableDataset``."""

    def __iter__(self) -> Iterator[Mapping[str, object]]: ...

    def shuffle(self, *, seed: int, buffer_size: int) -> "Rows":
        """Files in another order, and rows drawn from a buffer."""

    def state_dict(self) -> dict[str, Any]:
        """Where it is read on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read on from there."""


def check_dataset(data: DataSettings) -> None:
    """Can the dataset be looked for? Nothing is fetched. Raises DataError."""
    _library()
    _files_of(data.dataset)


def prepare_reader() -> None:
    """For a process that reads and does nothing else, and ends at once when it ends. Before anything is read; raises DataError.

    The library would import torch with the first rows, a second and some 180 MiB; and rest for five seconds after each reading, for
    threads that must not outlive an interpreter which is taken down piece by piece.
    """
    os.environ["USE_TORCH"] = "NO"  # looked at when the library is imported
    _library().config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0


def open_rows(data: DataSettings) -> Rows:
    """A dataset with the column of the text alone, in the dataset's own order.

    Raises DataError for what can be told by looking, and whatever the library raises where it is not reached.
    """
    library = _library()
    library.disable_progress_bars()
    files = _files_of(data.dataset)
    folder = Path(data.dataset).expanduser()
    if files:
        builder = _BUILDERS[Path(files[0]).suffix]
        rows = library.load_dataset(builder, data_files=files, split="train", streaming=True)
    elif any((folder / name).is_file() for name in _SAVED):
        saved = library.load_from_disk(str(folder))
        if isinstance(saved, dict):
            if data.dataset_split not in saved:
                raise DataError(
                    f"{data.dataset}: no split {data.dataset_split}, but {', '.join(saved)}; correct data.dataset_split"
                )
            saved = saved[data.dataset_split]
        rows = saved.to_iterable_dataset(num_shards=max(1, min(_SHARDS_OF_SAVED, len(saved))))
    else:
        name = str(folder) if folder.is_dir() else data.dataset
        try:
            rows = library.load_dataset(
                name,
                data.dataset_config or None,
                split=data.dataset_split,
                revision=data.dataset_revision or None,
                streaming=True,
            )
        except (FileNotFoundError, ValueError) as error:  # no such dataset, configuration or split
            raise DataError(
                f"{data.dataset}: {error}; correct data.dataset, data.dataset_config, data.dataset_split or data.dataset_revision"
            ) from error
    columns = rows.column_names or list(next(iter(rows), {}))
    if data.text_column not in columns:
        raise DataError(
            f"{data.dataset}: no column {data.text_column}, but {', '.join(columns)}; correct data.text_column"
        )
    found: Rows = rows.select_columns([data.text_column])
    return found


def open_validation_rows(data: DataSettings) -> Rows | None:
    """The dataset's own validation split, in its own order; None where it has none, or one without the column of the text.

    Files, and a node that trains on that very split, have none. Raises whatever the library raises where the dataset is not reached.
    """
    if data.dataset_split == _VALIDATION or _files_of(data.dataset):
        return None
    try:
        return open_rows(replace(data, dataset_split=_VALIDATION))
    except DataError:
        return None


def texts_of(rows: Rows, data: DataSettings) -> Iterator[str]:
    """The texts, empty ones left out. Raises DataError for a column that has something else."""
    for row in rows:
        text = row[data.text_column]
        if text is not None and not isinstance(text, str):
            raise DataError(
                f"{data.dataset}: column {data.text_column} has {type(text).__name__}, not text; correct data.text_column"
            )
        if text:
            yield text


def _library() -> ModuleType:
    try:
        import datasets  # noqa: PLC0415 - an extra, and takes a second
    except ImportError as error:
        raise DataError("data.dataset needs the package datasets: pip install 'lowcomm-node[hf]'") from error
    library: ModuleType = datasets
    return library


def _files_of(name: str) -> list[str]:
    """Files that a name with one of the known endings stands for; none for other names."""
    path = Path(name).expanduser()
    if path.suffix not in _BUILDERS:
        if not path.is_dir() and (path.is_absolute() or name.startswith((".", "~"))):
            raise DataError(f"{name}: no such folder; correct data.dataset")
        return []
    files = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(name) else [str(path)]  # noqa: PTH207
    if not files or not all(Path(file).is_file() for file in files):
        raise DataError(f"{name}: no such file; correct data.dataset")
    return files
