"""A program of a rank, run forward and backward for one micro-batch.

May import what `spnb.training` may, and nothing else of it.  Begin with `tape`; `taped_program` has
what all tapes share, `tape_values` what one holds, and `patched_tape` runs a tile in patches.
"""
