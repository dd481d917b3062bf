"""The shape of the package and of the repository, kept by machine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

from lowcomm_node.cli.app import COMMANDS
from lowcomm_node.train.tasks import OWN

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lowcomm_node"

_MAX_LINES = 400
_TOP_LEVEL = {
    ".ci", ".dockerignore", ".gitignore", "CHANGELOG.md", "Makefile", "README.md", "constraints.txt", "deploy", "docker", "docs",
    "lowcomm_node", "proto", "pyproject.toml", "tests",
}  # fmt: skip
_HEAVY = ("torch", "hivemind", "grpc", "numpy", "matplotlib")
_ENTRY_POINTS = {"lowcomm_node.__main__", "lowcomm_node.cli.app", "lowcomm_node.telemetry.catalogue.__main__"}


def test_layers_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Imports only point downwards, and decisions have no clock, chance, tensors or I/O (contracts in pyproject)."""
    monkeypatch.chdir(ROOT)

    status = lint_imports(config_filename="pyproject.toml", no_cache=True)

    assert status == 0, capsys.readouterr().out


def test_files_stay_small() -> None:
    """No file of the package is longer than a reader's patience; generated code is not read."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _written_files()}

    assert {path.name: length for path, length in lengths.items() if length > _MAX_LINES} == {}


def test_help_is_light() -> None:
    """Asking for help loads none of the packages that take seconds."""
    script = (
        "import sys\n"
        "from lowcomm_node.cli.app import main\n"
        "status = main(['--help'])\n"
        f"heavy = [name for name in {_HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'help loaded {heavy}' if heavy else status)\n"
    )

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    assert "lowcomm-node" in result.stdout


def test_every_module_is_used() -> None:
    """From the entry points, the tables of commands and tasks, and the processes we start, imports lead to every module."""
    graph = grimp.build_graph("lowcomm_node", cache_dir=None)
    written = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in _written_files()}
    modules = {name for name in written if not name.endswith("__init__")}
    starts = _ENTRY_POINTS | {f"lowcomm_node.cli.commands.{name}" for name in COMMANDS}
    starts |= {task.module for task in OWN}
    for path in _written_files():
        starts |= set(re.findall(r'"-m", "(lowcomm_node\.[\w.]+)"', path.read_text(encoding="utf-8")))

    assert starts - modules == set(), "modules are named that are not there"
    reached, waiting = set[str](), list(starts)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += graph.find_modules_directly_imported_by(name)
    assert modules - reached == set(), "nobody calls these modules"


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_top_level_is_tidy() -> None:
    """The repository's top level holds the agreed names and nothing else."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert {Path(name).parts[0] for name in listed.stdout.splitlines()} - _TOP_LEVEL == set()


def _written_files() -> list[Path]:
    generated = PACKAGE / "wire" / "gen"
    return [path for path in sorted(PACKAGE.rglob("*.py")) if generated not in path.parents]
