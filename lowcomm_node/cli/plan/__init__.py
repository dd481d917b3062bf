"""What `lowcomm-node plan` is made of."""
