"""The laboratory: methods compared in one process, without network, on the trainer's own replicas and codecs."""
