"""Spatial parallelism of convolutional networks, from a notebook."""
