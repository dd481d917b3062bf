"""What others need to join the run by this node, for people."""

from lowcomm_node.units import Reachability
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import Status

__all__ = ["how_to_join"]


def how_to_join(status: Status, arguments: str = "") -> str:
    """The line that others type, with what there is to say about it; empty while that is not known.

    A node that nobody can dial names a member that it has joined by, or says that it knows none.
    """
    line = f"  lowcomm-node join --peers {status.join_address}{arguments}"
    if status.join_address.endswith(f"/p2p/{status.peer_id}"):
        return f"others join with\n{line}"
    if status.join_address:
        return f"nobody can dial this node; others join by one that it has reached:\n{line}"
    if status.reachability in ("", Reachability.PUBLIC):
        return ""
    return "nobody can dial this node, and it has reached no other by an address that it could name: others need another member's"
