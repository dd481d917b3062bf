"""What the core of a node goes by, from the manifest, the node's settings and fresh chance."""

import os

from lowcomm_node.core.node import NodeRules
from lowcomm_node.core.schedule import Timing
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.streams import periods
from lowcomm_node.units import PeerId, RunId

__all__ = ["rules_of_a_life"]


def rules_of_a_life(own: PeerId, run: RunId, manifest: Manifest, settings: NodeSettings) -> NodeRules:
    """Rules of one life of one node; the seed is drawn here, as meeting ids must not repeat after a restart."""
    return NodeRules(
        own=own,
        run_id=run,
        protocol_version=manifest.protocol_version,
        periods={period.stream: period.every_steps for period in periods(manifest)},
        deadline_s=settings.meeting.deadline_s,
        verdict_keep_s=settings.meeting.verdict_keep_s,
        max_peers=settings.network.max_peers,
        seed=os.urandom(32),
        timing=Timing(manifest.meeting.timing),
        num_bells=settings.network.bells,
        clip_ratio=manifest.meeting.clip_ratio,
    )
