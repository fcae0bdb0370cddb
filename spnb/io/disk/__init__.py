"""Files and folders: found, claimed, replaced when complete; an error names the file in one line.

May import the floors below `spnb.io`, and nothing else of it.  Begin with `files`; `targets` says
what may be written where, `replacing` and `disk_space` keep what is there until a file is complete.
"""
