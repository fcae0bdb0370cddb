"""Networks in 8-bit numbers: PyTorch's own quantisation, and its calls in whole numbers.

May import what `spnb.capture` may.  Begin with `flow` (from a module and images to an int8 module),
then `lowering` (its calls).
"""
