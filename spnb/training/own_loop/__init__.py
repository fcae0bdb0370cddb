"""A network in a training loop of the user's own, where autograd runs the backward pass.

May import what `spnb.training` may, and its other parts.  Begin with `parallel_network` (the
module that the user has), then `over_ranks` and `network_pass`.
"""
