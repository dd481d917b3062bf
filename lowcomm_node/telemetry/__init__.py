"""What a node shows of itself: metrics and logs."""
