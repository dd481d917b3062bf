"""Pictures of a running node's page: ``python -m tests.system.pictures STATE_DIR FOLDER``, with Chromium on the PATH."""

import sys
import tempfile
import time
from pathlib import Path

from lowcomm_node.daemon.control import ControlClient
from tests.system.browser import Browser

_WIDTH, _HEIGHT = 1100, 1430
_SETTLED_S = 3.0


def main(state_dir: Path, folder: Path) -> None:
    """Write ``page-light.png`` and ``page-dark.png``."""
    with ControlClient(state_dir) as client:
        address = client.status().http_address
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        browser.open(f"http://{address}/")
        browser.wait_for("document.querySelector('#loss polyline') !== null")
        for scheme in ("light", "dark"):
            browser.prefer(prefers_color_scheme=scheme)
            time.sleep(_SETTLED_S)
            browser.picture(folder / f"page-{scheme}.png", _WIDTH, _HEIGHT)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
