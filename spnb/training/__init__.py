"""Training: gradients of a rank's program, their sums over ranks, the optimizer.

May import `spnb.runtime`, `spnb.io` and the floors below.  Begin with `epoch` (the loop over
batches), then `step` (one batch), `tapes` (one micro-batch) and `reducer` (sums over ranks).

A training loop of the user's own has no `epoch`: it calls the network that `own_loop` makes.

A data set is evaluated on a rank by `evaluation`.

The user's choices are in `recipe`; functions of outputs in `losses`; the state of fp16's scale,
which changes with each step, in `loss_scale`.
"""
