"""The only folder that uses PyTorch's private parts; and what depends on the device.

Each private part is probed once, and has a fallback or an error that names PyTorch's version.
May import only `spnb.errors`.  Begin with `compat`, which lists the private parts; then `onednn`
(fused convolutions), `preallocated` (where results are written), `half_conv` and `devices`.
"""
