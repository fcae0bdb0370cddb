"""Searches the splits of a job: which are fast, and which need little memory; no rank is started.

May import the rest of `spnb.job`, which does not import it.  Begin with `search` (which splits are
looked at, in which order); `splits` lists them, `estimates` foresees them roughly, by arithmetic,
`waiting` has those that were not planned yet, and `tuned` is the result.
"""
