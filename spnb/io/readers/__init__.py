"""Formats that are read, a module for each: TIFF, slides, zarr, HDF5, NIfTI, DICOM, Pillow's.

May import `spnb.io.disk`, and of `spnb.io` itself `arrays`, `layout` and `sources`.  Begin with
`tiff`, which decodes only the tiles of a region; then `pillow`, which decodes a whole file.
"""
