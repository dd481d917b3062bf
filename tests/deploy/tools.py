"""Programs that the tests here drive, and what becomes of a test where one is missing."""

import os
import shutil
import sys
from pathlib import Path

import pytest

__all__ = ["REPOSITORY", "in_environment", "missing", "systemd_analyze", "tool"]

REPOSITORY = Path(__file__).parents[2]


def missing(what: str, promise: str) -> None:
    """Skip the test, and say why; fail it where the variable ``promise`` says that all it needs is there (as .ci/run sets it)."""
    if os.environ.get(promise):
        pytest.fail(what)
    pytest.skip(what)


def tool(name: str) -> str:
    """One of Prometheus' programs, from the system or from ``.tools`` (``make tools`` puts them there)."""
    local = REPOSITORY / ".tools/usr/bin" / name
    found = str(local) if local.is_file() else shutil.which(name)
    if found is None:
        missing(f"{name} is neither in .tools nor on the PATH; on Debian and Ubuntu: make tools", "CI_NEEDS_PROMETHEUS")
    return str(found)


def systemd_analyze() -> str:
    """systemd's checker of units."""
    found = shutil.which("systemd-analyze")
    if found is None:
        missing("systemd-analyze is not installed; on Debian and Ubuntu: apt install systemd", "CI_NEEDS_SYSTEMD")
    return str(found)


def in_environment(name: str) -> str:
    """A program that came with the ``dev`` packages, beside the running interpreter."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        missing(f"{name} has no build for this machine", "CI_NEEDS_LINTERS")
    return str(found)
