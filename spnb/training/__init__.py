"""The way back: gradients of a rank's program, their sums over ranks, the optimizer.

May import `spnb.runtime`, `spnb.io` and what lies below.  Begin with `step` (one batch), then
`tape` (one micro-batch backward), `reducer` (sums over ranks) and `epoch` (the loop over
batches).
"""
