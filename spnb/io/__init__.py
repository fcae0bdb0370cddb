"""Images and outputs by region: files are read and written in parts, never as a whole.

May import `spnb.ir` and the floors below.  Begin with `sources` (the sources), `open` (chooses the
source of a file) and `tensors` (a region as a tensor); `tiff`, `zarr_source` and `pillow` read
formats; `writers` writes outputs, and `outputs` and `targets` say what they may replace;
`image_folder`, `cifar`, `prepared` and `examples` feed training.
"""
