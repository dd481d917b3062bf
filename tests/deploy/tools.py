"""Programs of Prometheus and Docker, from the system or from ``.tools`` (``make tools`` puts them there)."""

import os
import shutil
from pathlib import Path

import pytest

__all__ = ["REPOSITORY", "plugin", "tool"]

REPOSITORY = Path(__file__).parents[2]
_NEEDED = "CI_NEEDS_PROMETHEUS"


def tool(name: str) -> str:
    """Where it is. Skips the test where it is not, and fails it where the environment says that it must be (as .ci/run does)."""
    return _found(name, "bin", shutil.which(name))


def plugin(name: str) -> str:
    """Where a plugin of Docker's client is; it runs by itself, too. Otherwise as ``tool``."""
    installed = Path("/usr/libexec/docker/cli-plugins") / name
    return _found(name, "libexec/docker/cli-plugins", str(installed) if installed.is_file() else None)


def _found(name: str, folder: str, installed: str | None) -> str:
    local = REPOSITORY / ".tools/usr" / folder / name
    found = str(local) if local.is_file() else installed
    if found is None:
        missing = f"{name} is neither in .tools nor installed; on Debian and Ubuntu: make tools"
        if os.environ.get(_NEEDED):
            pytest.fail(missing)
        pytest.skip(missing)
    return found
