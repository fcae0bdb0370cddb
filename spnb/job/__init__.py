"""What a user asks for: options, their validation, the network, and the plan of a job.

May import `spnb.analysis`, `spnb.training` and what lies below.  Begin with `options`, the one
table of options, and `job`, which a user makes; `network` builds and captures the network,
`job_plan` plans.
"""
