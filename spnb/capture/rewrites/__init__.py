"""Calls of a network that is being read, replaced by others that tiles can compute.

May import what `spnb.capture` may, and nothing else of it.  Begin with `canonicalize`; `placement`
finds where the axes of the image lie, which the other rewrites ask for.
"""
