"""One rank at work: its program made ready once, and run forward for each micro-batch.

May import `spnb.rules`, `spnb.transport` and what lies below.  Begin with `worker` (a run), then
`compiled_program` (a step), `buffer_plan` and `arena` (where results lie).
"""
