"""Training: gradients of a rank's program, their sums over ranks, the optimizer.

May import `spnb.runtime`, `spnb.io` and the floors below.  Begin with `epoch` (the loop over
batches), then `step` (one batch), `tape` (one micro-batch) and `reducer` (sums over ranks).

A program of the user's own has no `epoch`: there autograd runs a `parallel_network`, as
`over_ranks` and `network_pass` describe.

A data set is evaluated on a rank by `evaluation`.

The user's choices are in `recipe`; functions of outputs in `losses`; the state of fp16's scale,
which changes with each step, in `loss_scale`.
"""
