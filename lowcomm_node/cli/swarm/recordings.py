"""The nodes' flight recordings, collected before they leave: what ``simulate --against`` compares a simulation with."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from lowcomm_node.cli.swarm.launch import NodePlace
from lowcomm_node.daemon.control import ControlClient
from lowcomm_node.errors import LowcommError, StoreError

__all__ = ["take_recordings"]


def take_recordings(places: Mapping[str, NodePlace], folder: Path, say: Callable[[str], None]) -> None:
    """Have each of these nodes write a dump, and put it into ``folder`` under the node's name.

    A node that cannot give one is told of and left out. The dumps have no names or addresses in them.
    """
    say(f"taking the flight recordings of {len(places)} nodes")
    for name, place in places.items():
        try:
            with ControlClient(place.directory) as client:
                dump = client.dump(is_full=False)
            _put(dump, folder / f"{name}.json")
        except (LowcommError, PermissionError) as error:
            say(f"no recording of {name}: {error}")


def _put(dump: Path, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(dump, path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
