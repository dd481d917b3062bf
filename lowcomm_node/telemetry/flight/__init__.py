"""The flight recorder: what a node's core was told and what it said, to be read and run again elsewhere."""
