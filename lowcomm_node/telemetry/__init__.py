"""What the node tells about itself: one metric catalogue, the registry built from it, and logs."""
