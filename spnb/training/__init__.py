"""The way back: gradients of a rank's program, their sums over ranks, the optimizer.

May import `spnb.runtime`, `spnb.io` and what lies below.  Begin with `epoch` (the loop over
batches), then `step` (one batch), `tape` (one micro-batch) and `reducer` (sums over ranks).

What a user chooses is in `recipe`.  `losses` (functions of outputs) and `loss_scale` (a state that
changes with each step) are nouns of their own, so they are not merged into it.
"""
