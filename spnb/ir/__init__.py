"""Plain picklable data: regions, graphs, programs, and the exchanges between ranks.

Nothing here computes, moves bytes or draws; only `spnb.errors` may be imported.  Begin with
`region` and `tiling` (what is cut), then `exchange` (what moves), `graph` (the network) and
`rank_plan` (one rank's share).
"""
