"""What ``lowcomm-node join`` was told."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings

__all__ = ["JoinOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions:
    """Run, peers and settings of one life of a node."""

    manifest: Manifest | None
    peers: tuple[str, ...]
    run_id: str
    """Hexadecimal run id or its beginning; empty accepts whatever run the peers are in."""
    settings: NodeSettings
    state_dir: Path
    invite: str
    """An invitation to the run as it was written down; empty when it asks for none, or has let this node in before."""
    say: Callable[[str], None]
    """Lines for the person at the terminal."""
