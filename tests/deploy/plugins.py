"""The plugins of Docker's client, from the system or from ``.tools`` (``make tools`` puts them there)."""

import os
from pathlib import Path

import pytest

from tests.deploy.tools import REPOSITORY

__all__ = ["find_plugin", "plugin"]

_NEEDED = "CI_NEEDS_COMPOSE"
_FOLDERS = (REPOSITORY / ".tools/usr/libexec", Path("/usr/libexec"), Path("/usr/local/libexec"), Path("/usr/lib"))


def find_plugin(name: str) -> Path | None:
    """Where it is, None where it is not."""
    return next((path for folder in _FOLDERS if (path := folder / "docker/cli-plugins" / name).is_file()), None)


def plugin(name: str) -> str:
    """Where it is; it runs by itself, too. Skips the test where it is not, and fails it where the environment says that it must be."""
    found = find_plugin(name)
    if found is None:
        missing = f"{name} is neither in .tools nor installed; on Debian and Ubuntu: make tools"
        if os.environ.get(_NEEDED):
            pytest.fail(missing)
        pytest.skip(missing)
    return str(found)
