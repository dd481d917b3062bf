"""Tensors in, tensors out: the mathematics of training and of meetings, without effects."""
