"""Images and outputs by region: files are read and written in parts, never as a whole.

May import `spnb.ir` and the floors below.  Begin with `sources` (what is read by region), `open`
(chooses the source of a file or an array) and `tensors` (a region as a tensor).  Below it are
`disk` (files and folders), `readers` (formats), `writing` (outputs) and `datasets` (for training).
"""
