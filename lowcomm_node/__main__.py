"""``python -m lowcomm_node`` is ``lowcomm-node``."""

from lowcomm_node.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
