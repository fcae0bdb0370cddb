"""Images and outputs by region: files are read and written in parts, never as a whole.

May import `spnb.ir` and what lies below.  Begin with `sources` (what a source is) and `open`
(which source a file gets); `tiff`, `zarr_source` and `pillow` read formats, `writers` writes
outputs, `datasets` and `examples` feed training.
"""
