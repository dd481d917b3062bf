"""``lowcomm-node top``: one node and its swarm in a terminal."""
