"""Images made without a registry: a Debian from packages, ours on top of it, and stand-ins for those that would be pulled.

What comes from package archives is kept in .tools/engine; images are built anew for each engine.
"""

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deploy.engine import Engine
from tests.deploy.tools import REPOSITORY, tool

__all__ = ["ALERTMANAGER", "NODE", "PROMETHEUS", "build_node", "build_watchers"]

NODE = "lowcomm-node:tested"
PROMETHEUS = "prometheus:stand-in"
ALERTMANAGER = "alertmanager:stand-in"
_BASE = "debian-python:tested"
_BUILDER = "debian-python-wheels:tested"
_CACHE = REPOSITORY / ".tools/engine"
_MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
"""Without it the tool that merges directories is installed, and Perl for it."""
_FETCH_S = 900.0
_BUILD_S = 1500.0
_WHEELS = """
FROM {base}
RUN printf '[global]\\nno-index = true\\nfind-links = /wheels\\n' > /etc/pip.conf
COPY . /wheels
"""
_WATCHERS = """
FROM {base} AS both
RUN install --directory --owner=65534 --group=65534 /prometheus /alertmanager
USER 65534:65534
FROM both AS prometheus
COPY prometheus /usr/local/bin/
ENTRYPOINT ["prometheus"]
FROM both AS alertmanager
COPY prometheus-alertmanager /usr/local/bin/
COPY *.tmpl /usr/share/prometheus/alertmanager/
ENTRYPOINT ["prometheus-alertmanager"]
"""


def build_node(engine: Engine) -> None:
    """Build docker/Dockerfile as it is. How packages are reached from this machine stays in the image that it builds with."""
    if engine.docker("image", "inspect", _BASE, check=False).returncode:
        engine.docker("import", str(_base()), _BASE, timeout_s=_BUILD_S)
    _build(engine, _WHEELS.format(base=_BASE), _wheels(), _BUILDER)
    began_at = time.monotonic()
    arguments = {"BASE_IMAGE": _BASE, "BUILD_IMAGE": _BUILDER, "TORCH_BUILD": "", "VERSION": "1.2.3", "REVISION": "abc"}
    engine.docker(
        *("build", "--file", "docker/Dockerfile", "--tag", NODE),
        *(word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")),
        ".",
        timeout_s=_BUILD_S,
    )
    print(f"image built in {time.monotonic() - began_at:.0f} s")


def build_watchers(engine: Engine, folder: Path) -> None:
    """Debian's Prometheus and Alertmanager under the names that compose asks for. ``folder`` is for what goes in."""
    for name in ("prometheus", "prometheus-alertmanager"):
        shutil.copy(tool(name), folder / name)
    # Debian's Alertmanager has its templates beside it, and does not start without them.
    for template in (Path(tool("prometheus-alertmanager")).parents[1] / "share/prometheus/alertmanager").glob("*.tmpl"):
        shutil.copy(template, folder)
    for target, tag in (("prometheus", PROMETHEUS), ("alertmanager", ALERTMANAGER)):
        _build(engine, _WATCHERS.format(base=_BASE), folder, tag, "--target", target)


def _build(engine: Engine, recipe: str, context: Path, tag: str, *options: str) -> None:
    file = engine.folder / "Dockerfile"
    file.write_text(recipe)
    engine.docker("build", "--file", str(file), "--tag", tag, *options, str(context), timeout_s=_BUILD_S)


def _base() -> Path:
    """What the release's base is with Python installed: Debian 12 from its packages, as slim as that one."""
    archive = _CACHE / "slim.tar"
    if not archive.is_file():
        if (program := shutil.which("mmdebstrap")) is None:
            pytest.skip("mmdebstrap is missing; on Debian: apt install mmdebstrap")
        _CACHE.mkdir(parents=True, exist_ok=True)
        options = ["--variant=minbase", "--include=ca-certificates,python3,python3-venv", f"--hook-dir={_MERGED_USR}"]
        options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")]
        options += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
        _fetch(program, *options, "bookworm", str(_CACHE / "new.tar"))
        (_CACHE / "new.tar").rename(archive)
    return archive


def _wheels() -> Path:
    """All packages of the image as pip finds them from here, as wheels."""
    wanted = hashlib.sha256(
        b"".join((REPOSITORY / name).read_bytes() for name in ("constraints.txt", "pyproject.toml"))
    )
    folder = _CACHE / f"wheels-{wanted.hexdigest()[:16]}"
    if not folder.is_dir():
        new = _CACHE / "wheels-new"
        shutil.rmtree(new, ignore_errors=True)
        pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--constraint", "constraints.txt")
        _fetch(*pip, "--wheel-dir", str(new), "hatchling", ".[gpu]")
        new.rename(folder)
    return folder


def _fetch(*command: str) -> None:
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_FETCH_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stderr[-3000:]}"
