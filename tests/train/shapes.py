"""The example package of docs/tasks.md, installed as pip would leave it: its module and its metadata on the import path."""

import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "lowcomm-shapes"

__all__ = ["EXAMPLE", "install"]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into ``folder``, for as long as the test lasts."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items())
        for group, points in project["entry-points"].items()
    ]
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    (folder / "lowcomm_shapes.py").write_bytes((EXAMPLE / "lowcomm_shapes.py").read_bytes())
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "lowcomm_shapes", raising=False)
