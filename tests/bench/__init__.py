"""The laboratory, on models that step in a millisecond."""
