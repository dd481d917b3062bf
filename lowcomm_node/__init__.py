"""lowcomm-node: train one model on many volunteer machines over the ordinary internet."""

__version__ = "0.1.0"
PROTOCOL_VERSION = 1
"""Version of the wire contract under ``proto/lowcomm/v1``; meetings only happen between equal versions."""
