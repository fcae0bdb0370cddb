"""What a user asks for: options, their validation, the network, and the plan of a job.

May import `spnb.analysis`, `spnb.training` and what lies below.  Begin with `options`, the one
table of options; `network` builds and captures, `job_plan` plans.
"""
