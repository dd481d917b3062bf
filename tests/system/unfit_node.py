"""``lowcomm-node`` whose trainer is that of ``unfit_trainer``."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from lowcomm_node.cli.app import main
from lowcomm_node.daemon import trainer_client
from tests.system.unfit_trainer import MARKER


def _popen(command: list[str], **options: object) -> "subprocess.Popen[bytes]":
    python, _, _, descriptor = command
    module = ["-m", "tests.system.unfit_trainer", descriptor]
    return subprocess.Popen([python, *module], **options)  # type: ignore[call-overload, no-any-return]


if __name__ == "__main__":
    os.environ[MARKER] = str(Path(sys.argv[sys.argv.index("--state-dir") + 1]) / "went-bad")
    trainer_client.subprocess = SimpleNamespace(  # type: ignore[assignment, attr-defined]
        Popen=_popen, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )
    sys.exit(main())
