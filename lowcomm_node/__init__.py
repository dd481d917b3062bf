"""lowcomm-node: train one model on many volunteer machines over the ordinary internet."""

__version__ = "0.1.0"
PROTOCOL_VERSION = 1
"""Newest version of the wire contract under ``proto/lowcomm/v1`` that is spoken here; a run speaks its manifest's."""
OLDEST_PROTOCOL_VERSION = 1
"""Oldest version of it in which a run can still be joined."""
