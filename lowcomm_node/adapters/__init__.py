"""The outside world behind the ports: DHT, gRPC, files."""
