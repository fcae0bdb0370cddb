"""From an `nn.Module` to a `Graph`: operator calls with extents, computed without any memory.

May import `spnb.rules` and the floors below.  Begin with `export`, which calls the others:
`reader` reads the calls, `rewrites` replaces calls by others that tiles can compute, `translate`
makes the graph, and `autograd` records where gradients end.
"""
