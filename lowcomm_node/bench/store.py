"""Results on disk: one JSON file a trial, named by what defines it, so that a run that was ended goes on where it was."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from lowcomm_node import __version__
from lowcomm_node.bench.trial import Result, Trial, result_from, result_to
from lowcomm_node.errors import StoreError

__all__ = ["read_result", "write_json", "write_result", "write_text"]


def read_result(folder: Path, trial: Trial) -> Result | None:
    """The stored result of a trial, or None. Raises StoreError for a file that is not one."""
    path = _path(folder, trial)
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return result_from(plain["result"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{path}: not a result of the laboratory ({error}); delete it to run the trial again"
        ) from error


def write_result(folder: Path, trial: Trial, result: Result) -> None:
    """Store a result with all that defines it. Raises StoreError."""
    write_json(_path(folder, trial), {"version": __version__, "trial": asdict(trial), "result": result_to(result)})


def write_json(path: Path, plain: object) -> None:
    """Write strict JSON. Raises StoreError."""
    write_text(path, json.dumps(plain, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file by this text, or leave it as it was. Raises StoreError."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise StoreError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from error


def _path(folder: Path, trial: Trial) -> Path:
    return folder / "trials" / f"{trial.key}.json"
