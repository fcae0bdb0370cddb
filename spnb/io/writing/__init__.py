"""Outputs in files: many ranks write at once, each its own region.

May import `spnb.io.disk` and `spnb.io.readers`.  Begin with `writers`; `formats` and `sample_types`
say what each suffix stores, `outputs` what a saved output may take the place of.
"""
