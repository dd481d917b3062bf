"""What the simulator's command shows."""
