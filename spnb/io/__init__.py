"""Images and outputs by region: files are read and written in parts, never as a whole.

May import `spnb.ir` and what lies below.  Begin with `sources` (what a source is), `open` (which
source a file gets) and `tensors` (a region as a tensor); `tiff`, `zarr_source` and `pillow` read
formats, `writers` writes outputs, `datasets` and `examples` feed training.
"""
