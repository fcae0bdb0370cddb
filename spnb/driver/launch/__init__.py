"""The processes of engines: started on this host, on others or as a batch job, watched and ended.

May import the floors below `spnb.driver`, and no other part of it.  Begin with `engines`; then
`processes` (this host, or many by mpiexec) or `batch_launch` (a job of Slurm).
"""
