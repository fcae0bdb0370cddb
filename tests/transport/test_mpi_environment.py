"""What MPI needs of a host before it starts: a line where there is too little of it."""

import os
import resource

import pytest

from spnb.errors import StartError
from spnb.transport import mpi_environment
from spnb.transport.mpi_environment import (
    on_one_host,
    prepare_rank,
    require_files,
    require_loopback,
)
from spnb.transport.mpi_family import HYDRA, MPIPart

MIB = 1 << 20


def test_ranks_take_less_shared_memory_where_room_is_short(monkeypatch):
    assert on_one_host(16, None) == on_one_host(16, 100 * MIB) == {"UCX_TLS": "^tcp"}
    few = on_one_host(16, 64 * MIB)
    assert few["UCX_POSIX_FIFO_SIZE"] == "64"
    fewer = on_one_host(4, 3 * MIB)
    assert fewer["MPIR_CVAR_CH4_SHM_POSIX_IQUEUE_NUM_CELLS"] == "2"
    assert few.items() <= fewer.items()
    with pytest.raises(StartError, match=r"4 ranks need 2.7 MiB .*, and /dev/shm has 1.0 MiB: "):
        on_one_host(4, MIB)
    monkeypatch.setenv("UCX_TLS", "rc,self,sm")  # a choice of the user's own
    assert on_one_host(16, None) == {}


def test_the_limit_of_open_files_is_raised_as_far_as_it_may(monkeypatch):
    limits = [(32, 64)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limit: limits.append(limit))
    require_files(30)
    require_files(60)
    with pytest.raises(StartError, match=r"needs 88 open files, and may have 64: .*ulimit -n 1024"):
        require_files(88)
    assert limits == [(32, 64), (60, 64)]


def test_a_host_without_an_interface_is_refused_at_once(monkeypatch):
    require_loopback()

    def unreachable(*_, **__):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(mpi_environment.socket, "create_connection", unreachable)
    with pytest.raises(StartError, match=r"at 127\.0\.0\.1 \(Network is unreachable\), where"):
        require_loopback()


@pytest.fixture
def started(monkeypatch):
    """The launches that would have started MPI."""
    found = []
    monkeypatch.setattr(mpi_environment, "library_of_process", lambda: MPIPart("", "MPI", ""))
    monkeypatch.setattr(mpi_environment, "start_mpi", lambda *given: found.append(given))
    return found


def test_a_rank_of_another_launcher_is_left_alone(monkeypatch, started):
    monkeypatch.setattr(mpi_environment, "on_one_host", lambda *_: pytest.fail("called"))
    prepare_rank({})
    assert not started
    prepare_rank({"MPI_LOCALNRANKS": "2", "PMI_SIZE": "4"})
    assert [(launcher.family, ranks) for launcher, _, ranks in started] == [(HYDRA, 4)]


def test_several_ranks_of_srun_on_a_host_do_not_use_ucx(monkeypatch, started):
    monkeypatch.delenv("MPIR_CVAR_CH4_NETMOD", raising=False)
    step = {"SLURM_STEP_ID": "0", "PMI_RANK": "1", "PMI_SIZE": "3", "SLURM_STEP_NUM_NODES": "3"}
    prepare_rank(step)
    assert "MPIR_CVAR_CH4_NETMOD" not in os.environ
    monkeypatch.setenv("MPIR_CVAR_CH4_NETMOD", "ucx")
    prepare_rank(step | {"PMI_SIZE": "5"})
    assert os.environ["MPIR_CVAR_CH4_NETMOD"] == "ucx"  # the user's own
    monkeypatch.delenv("MPIR_CVAR_CH4_NETMOD")
    prepare_rank(step | {"PMI_SIZE": "5"})
    assert os.environ.pop("MPIR_CVAR_CH4_NETMOD") == "ofi"
    assert [ranks for *_, ranks in started] == [3, 5, 5]
