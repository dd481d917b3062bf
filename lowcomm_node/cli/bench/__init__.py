"""What the laboratory shows while it works, and leaves behind."""
