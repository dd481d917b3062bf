"""Writes the dashboards: ``python -m deploy.grafana.generate``, with ``--check`` only says whether they are fresh."""

import json
import sys
from pathlib import Path

from deploy.grafana.build import Dashboard
from deploy.grafana.node import NODE
from deploy.grafana.swarm import SWARM
from deploy.grafana.wire import WIRE

__all__ = ["DASHBOARDS", "files"]

DASHBOARDS: tuple[Dashboard, ...] = (SWARM, NODE, WIRE)
_FOLDER = Path(__file__).parent / "dashboards"


def files() -> dict[Path, str]:
    """What each file should hold."""
    return {
        _FOLDER / f"{dashboard.uid.removeprefix('lowcomm-')}.json": json.dumps(dashboard.json(), indent=2) + "\n"
        for dashboard in DASHBOARDS
    }


def main(arguments: list[str]) -> int:
    """Write, or compare; the exit status."""
    wanted = files()
    if arguments == ["--check"]:
        stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
        stale += [path.name for path in _FOLDER.glob("*.json") if path not in wanted]
        if stale:
            sys.stderr.write(f"not what deploy.grafana.generate writes: {', '.join(stale)}; run it\n")
        return 1 if stale else 0
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
