"""Operators that read the whole image: each tile computes figures of its own, which are merged.

May import what `spnb.rules` may, and its other families.  Begin with `statistics` (what figures
are), then `merging` (the calls that merge them) and `reductions`.
"""
