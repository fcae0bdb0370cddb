"""The only door to PyTorch's private parts: devices, oneDNN, placed results, half precision.

Everything that PyTorch does not promise is probed here once, with a fallback.  Only
`spnb.errors` may be imported.  Begin with `compat`, which lists what is probed.
"""
