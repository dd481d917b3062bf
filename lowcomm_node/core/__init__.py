"""Decisions: events and the time in, commands out; no clock, no chance, no I/O."""
