"""One rank at work: its program is made ready once, and run forward for each micro-batch.

May import `spnb.rules`, `spnb.transport` and what lies below.  Begin with `worker` (a run), then
`compiled_program` (its actions), `halo_tile` and `local_values` (what they compute with),
`buffer_plan`, `arena` and `result_places` (where results lie).
"""
