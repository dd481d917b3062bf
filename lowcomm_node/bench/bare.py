"""A bare training loop, a process of its own: ``python -m lowcomm_node.bench.bare LOAD``.

What a node is measured against: the run's model on the run's data with this machine's settings, one step after the other, and
nothing beside it. How far it is stands in a file that others map too, so that looking costs it nothing.
"""

import json
import mmap
import struct
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.load import build, read_manifest, read_toml
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.train.child import prepare_child, stand_back
from lowcomm_node.units import PeerId

__all__ = ["BareLoad", "Tally", "main"]

_TOKENS = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class BareLoad:
    """What one loop trains, and where it says how far it is."""

    name: str
    """Stands for the peer id: whose order of the data."""
    manifest_file: str
    config_file: str
    """Node settings; those of a trainer are used."""
    state_dir: str
    """For the tokens of its text."""
    tally_file: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Tally:
    """Tokens trained on so far, in a file of eight bytes."""

    def __init__(self, path: Path) -> None:
        """Begins at 0 where the file is new. Raises OSError."""
        if not path.exists():
            path.write_bytes(_TOKENS.pack(0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _TOKENS.size)

    @property
    def tokens(self) -> int:
        return int(_TOKENS.unpack_from(self._map)[0])

    @tokens.setter
    def tokens(self, count: int) -> None:
        _TOKENS.pack_into(self._map, 0, count)

    def close(self) -> None:
        """The file stays."""
        self._map.close()


def main(arguments: list[str]) -> None:
    """Train until somebody ends it."""
    prepare_child()
    load = BareLoad(**json.loads(arguments[0]))
    tally = Tally(Path(load.tally_file))
    manifest = read_manifest(Path(load.manifest_file))
    settings = build(NodeSettings, read_toml(Path(load.config_file)), load.config_file)
    settings = replace(settings, state_dir=load.state_dir)
    from lowcomm_node.train.session import build_session  # noqa: PLC0415 - as in train/process.py

    stand_back(settings.owner.nice)
    session = build_session(manifest, settings, run_id(manifest), PeerId(load.name))
    replica = session.replica
    while True:
        result = replica.train_step(session.stream.batch(replica.data_cursor))
        tally.tokens += result.tokens


if __name__ == "__main__":
    main(sys.argv[1:])
