"""The user's process: starts engines, sends plans and images, collects results.

May import `spnb.engine`, `spnb.job` and what lies below; ipyparallel is imported here only.
Begin with `session` (what is common), then `cluster` (ipyparallel engines) or `mpi_launch`
(under mpiexec).
"""
