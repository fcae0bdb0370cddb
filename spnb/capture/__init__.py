"""From an `nn.Module` to a `Graph`: operator calls with extents, computed without any memory.

May import `spnb.rules` and the floors below.  Begin with `export`, which calls the others:
`reader` reads the calls, `canonicalize` writes them in one way, `translate` makes the graph, and
`autograd` records where gradients end.
"""
