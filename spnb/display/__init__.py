"""Draws and prints arrays, tables and plain data, as text, HTML or pictures; never a `Plan`.

Only `spnb.ir`, `spnb.kernels` and `spnb.errors` may be imported; matplotlib is imported in
`plots` only.  Begin with `cards` (how objects show themselves) or with a picture in `plots`.
"""
