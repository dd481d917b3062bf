"""The node process: one event loop that feeds the decisions and carries them out."""
