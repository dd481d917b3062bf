"""The two documents, run manifest and node settings: schema, checks, one pure merge with origins."""
