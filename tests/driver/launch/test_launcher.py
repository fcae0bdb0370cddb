"""What a launcher leaves in the environment of a process, and what ranks do not inherit."""

import pytest

from spnb.driver.launch.launcher import of_another_launch, under_mpi
from spnb.errors import StartError


@pytest.mark.parametrize(
    ("environment", "launched"),
    [
        ({}, False),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, True),  # MPICH
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "0"}, True),
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "0"}, True),
        # A server of notebooks: what is run in it starts its own ranks.
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "5", "SLURM_PROCID": "0"}, False),  # sbatch
    ],
)
def test_ranks_are_told_from_other_processes(environment, launched):
    assert under_mpi(environment) is launched


def test_tasks_of_srun_that_are_no_ranks_are_refused():
    with pytest.raises(StartError, match=r"srun started 5 tasks, .* add --mpi=pmi2 for MPICH"):
        under_mpi({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "5", "SLURM_PROCID": "3"})


def test_the_users_own_settings_are_inherited():
    own = [
        "PATH",
        "OMPI_MCA_btl",
        "OMPI_ALLOW_RUN_AS_ROOT",
        "PRTE_MCA_rmaps_default",
        "HYDRA_IFACE",
    ]
    own += ["UCX_TLS", "MPIR_CVAR_CH4_NETMOD", "SLURM_CPUS_ON_NODE", "SLURM_TMPDIR"]
    launch = ["PMI_FD", "PMI2_X", "PMIX_NAMESPACE", "HYDI_CONTROL_FD", "MPI_LOCALNRANKS"]
    launch += ["OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri", "SLURM_JOB_ID", "SLURM_NODELIST"]
    launch += ["PBS_NODEFILE", "HYDRA_HOST_FILE", "LSB_HOSTS"]
    assert of_another_launch([*own, *launch]) == launch
