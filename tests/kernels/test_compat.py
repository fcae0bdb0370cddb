"""What takes the place of each private part of PyTorch where that is missing."""

import importlib.util
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from spnb.kernels import compat


def lookups(monkeypatch, *hidden):
    """The module, made anew where PyTorch does not have some of its own."""
    for name in hidden:
        parent, _, member = name.rpartition(".")
        monkeypatch.delattr(sys.modules[parent], member)
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("spnb.kernels.compat_again", compat.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_error_names_the_version_and_what_it_lacks():
    with pytest.raises(ImportError) as caught:
        compat.first_of("torch.utils._absent", "torch._C._Absent")
    assert str(caught.value) == (
        f"PyTorch {torch.__version__} has no torch.utils._absent, which spnb needs:"
        " install PyTorch 2.13"
    )


def test_trees_come_from_the_public_module_where_the_private_one_is_gone(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.pytree", torch.utils._pytree)
    found = lookups(monkeypatch, "torch.utils._pytree")
    assert found.pytree.tree_leaves({"a": [1, 2]}) == [1, 2]


@pytest.mark.parametrize("gone", ["torch.utils._pytree", "torch._C.DisableTorchFunction"])
def test_what_has_no_fallback_is_named(monkeypatch, gone):
    with pytest.raises(ImportError, match=f"has no {gone}.*install PyTorch"):
        lookups(monkeypatch, gone)


def test_fake_tensors_come_from_their_submodule(monkeypatch):
    found = lookups(monkeypatch, "torch._subclasses")
    assert found.FakeTensorMode is compat.FakeTensorMode
    assert found.FakeTensor is compat.FakeTensor


def test_fake_tensors_that_are_nowhere_are_named(monkeypatch):
    with pytest.raises(ImportError, match=r"has no torch\._subclasses\.FakeTensor"):
        lookups(monkeypatch, "torch._subclasses.fake_tensor", "torch._subclasses")


def test_operators_run_unchanged_without_dispatch_modes(monkeypatch):
    found = lookups(monkeypatch, "torch.utils._python_dispatch")
    with found.TorchDispatchMode():
        assert torch.ones(2).sum() == 2
    assert found.TorchDispatchMode is found.NoDispatchMode


def test_no_function_switches_gradients_where_none_is_known(monkeypatch):
    monkeypatch.delattr(torch._C, "_set_grad_enabled")
    assert lookups(monkeypatch).SET_GRAD_ENABLED is None


def test_arguments_of_an_operator_without_schema():
    assert [a.name for a in compat.arguments_of(torch.ops.aten.relu.default)] == ["self"]
    with pytest.raises(ImportError, match="_schema of the operator"):
        compat.arguments_of(len)


class Group:
    """A process group that only remembers how it was made."""

    def __init__(self, store, rank, size, how):
        self.made = (store, rank, size, how)


def test_gloo_without_options_chooses_the_interface(monkeypatch):
    monkeypatch.setattr(distributed, "ProcessGroupGloo", Group)
    timeout = timedelta(seconds=3)
    assert compat.gloo_opener("10.0.0.1", timeout)("store", 1).made == ("store", 1, 2, timeout)


@pytest.mark.parametrize("config", [{}, {"config": SimpleNamespace()}])
def test_nccl_takes_few_blocks_where_it_can_be_told(monkeypatch, config):
    group = type("NCCL", (Group,), {"Options": lambda: SimpleNamespace(**config)})
    monkeypatch.setattr(distributed, "ProcessGroupNCCL", group, raising=False)
    timeout = timedelta(seconds=3)
    *where, options = compat.nccl_opener(timeout, blocks=2)("store", 0).made
    assert where == ["store", 0, 2]
    assert options._timeout == timeout
    assert not config or options.config.max_ctas == 2


def test_weights_are_not_frozen_without_the_switch(monkeypatch):
    config = SimpleNamespace(freezing=False)
    monkeypatch.setitem(sys.modules, "torch._inductor.config", config)
    compat.freeze_compiled_weights()
    assert config.freezing
    monkeypatch.setitem(sys.modules, "torch._inductor.config", SimpleNamespace())
    with pytest.raises(ImportError, match=r"has no torch\._inductor\.config\.freezing"):
        compat.freeze_compiled_weights()


def test_graphs_are_compiled_where_pytorch_cannot_leave_it(monkeypatch):
    lazily = compat.first_of("torch.fx._lazy_graph_module")
    with compat.graphs_not_compiled():
        assert lazily._get_graph_module_cls() is lazily._LazyGraphModule
    assert lazily._get_graph_module_cls() is torch.fx.GraphModule
    monkeypatch.delattr(lazily, "_use_lazy_graph_module")
    with compat.graphs_not_compiled():
        assert lazily._get_graph_module_cls() is torch.fx.GraphModule


def test_stacks_are_recorded_where_pytorch_cannot_leave_them_out(monkeypatch):
    config = compat.first_of("torch.fx.config")
    with compat.stack_traces_left_out():
        assert config.do_not_emit_stack_traces
    assert not config.do_not_emit_stack_traces
    monkeypatch.setitem(sys.modules, "torch.fx.config", SimpleNamespace())
    with compat.stack_traces_left_out():
        assert not config.do_not_emit_stack_traces
