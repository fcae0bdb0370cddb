"""The user's process: starts engines, sends plans and images, collects results.

May import `spnb.engine`, `spnb.job` and the floors below; ipyparallel is imported here and in
`spnb.engine` only.  Begin with `session` (common to all sessions), then `cluster` (ipyparallel
engines) or `mpi_launch` (under mpiexec).  `launch` starts and ends the engines' processes;
`training` directs training and evaluation, and has the format of checkpoints.
"""
