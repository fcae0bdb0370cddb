"""Bytes between ranks: by threads (`local`), MPI (`mpi`), and gloo or NCCL (`torch_dist`).

May import `spnb.ir`, `spnb.kernels` and `spnb.errors`.  Begin with `base`, the contract that is
re-exported here; `allreduce`, `host_staging` and `rank_view` use nothing else of a carrier.
"""

from .base import Arrival, Messages, Transport

__all__ = ["Arrival", "Messages", "Transport"]
