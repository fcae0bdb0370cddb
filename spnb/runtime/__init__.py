"""One rank at work: its program is compiled once, and run forward for each micro-batch.

May import `spnb.rules`, `spnb.transport` and the floors below.  Begin with `worker` (a run), then
`compiled_program` (its actions), `halo_tile` and `local_values` (the values that actions read),
`buffer_plan`, `arena` and `result_places` (the memory of results).
"""
