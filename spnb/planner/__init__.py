"""From a `Graph` and a split to every rank's program: stages, needs, exchanges.

May import `spnb.rules` and what lies below.  Begin with `plan`; `balance` cuts stages, `pieces`
holds class tokens apart from the tokens of the image, `rank_places` says where a rank is, `needs`
traces which region each operator reads, `exchanges` lists what moves, and `rank_programs` writes
one rank's steps.
"""
