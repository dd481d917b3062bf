"""The trainer process: model, data, optimizer, and the trainer's side of meetings."""
