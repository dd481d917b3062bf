"""Prometheus' own programs, from the system or from ``.tools`` (``make tools`` puts them there)."""

import os
import shutil
from pathlib import Path

import pytest

__all__ = ["REPOSITORY", "tool"]

REPOSITORY = Path(__file__).parents[2]
_NEEDED = "CI_NEEDS_PROMETHEUS"


def tool(name: str) -> str:
    """Where it is. Skips the test where it is not, and fails it where the environment says that it must be (as .ci/run does)."""
    local = REPOSITORY / ".tools/usr/bin" / name
    found = str(local) if local.is_file() else shutil.which(name)
    if found is None:
        missing = f"{name} is neither in .tools nor on the PATH; on Debian and Ubuntu: make tools"
        if os.environ.get(_NEEDED):
            pytest.fail(missing)
        pytest.skip(missing)
    return found
