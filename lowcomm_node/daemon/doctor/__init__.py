"""Measures what ``core.diagnosis`` judges. Nothing here changes anything that outlives the call."""
