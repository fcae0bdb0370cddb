"""The private parts of PyTorch that spnb uses: each is looked up here once, and nowhere else.

PyTorch promises nothing of them.  So each has a fallback, or an error that names the version of
PyTorch and what it lacks:

=========================  ============================  =========================================
name here                  in PyTorch 2.13               without it
=========================  ============================  =========================================
`pytree`                   torch.utils._pytree           torch.utils.pytree, or an error
`FakeTensor`, its mode     torch._subclasses             its submodule, or an error
`TorchDispatchMode`        torch.utils._python_dispatch  a mode that changes nothing
`HigherOrderOperator`      torch._ops                    an error
`DisableTorchFunction`     torch._C                      an error
`SET_GRAD_ENABLED`         torch._C._set_grad_enabled    None, which is no function
`transforms_undone`        torch._C._functorch           a failed transform stays entered
`stack_traces_left_out`    torch.fx.config               a capture takes a third longer
`graphs_not_compiled`      torch.fx._lazy_graph_module   a capture takes a tenth longer
`FUNCTION_TRANSFORMS`      torch._functorch.predispatch  transforms are refused as unknown calls
`arguments_of`             an operator's _schema         an error
`script_converter`         torch._export.converter       TorchScript is refused
`decomposition_of`         torch._decomp                 operators without a rule stay whole
`cpu_flash_attention`      aten._scaled_dot_product_…    attention by plain operators, in blocks
`gloo_opener`              ProcessGroupGloo._Options     PyTorch chooses the network interface
`nccl_opener`              options.config.max_ctas       NCCL chooses its number of blocks
`freeze_compiled_weights`  torch._inductor.config        an error
=========================  ============================  =========================================

`spnb.kernels.onednn`, `preallocated`, `autograd_node` and `left_out_compiler` know what they alone
use.  The module is longer than others because one page lists all that a new version of PyTorch may
take away.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed


def lacks(name: str) -> ImportError:
    """The error that says which part of PyTorch was not found.

    Parameters
    ----------
    name
        Address of the part, as in the version of PyTorch that spnb was tested with.

    Examples
    --------
    >>> raise lacks("torch.utils._pytree")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ImportError: PyTorch ... has no torch.utils._pytree, ...: install PyTorch 2.13
    """
    return ImportError(
        f"PyTorch {torch.__version__} has no {name}, which spnb needs: install PyTorch 2.13"
    )


def first_of(*names: str) -> Any:
    """The first of several modules, or members of modules, that this version of PyTorch has.

    Parameters
    ----------
    names
        Full addresses such as ``"torch.utils._pytree"``, the preferred one first.

    Raises
    ------
    ImportError
        If PyTorch has none of them; the message names the first and PyTorch's version.

    Examples
    --------
    >>> first_of("torch.utils.no_such_module", "torch.nn.functional").__name__
    'torch.nn.functional'
    """
    for name in names:
        module, _, member = name.rpartition(".")
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
        try:
            return getattr(importlib.import_module(module), member)
        except (ImportError, AttributeError):
            pass
    raise lacks(names[0])


class NoDispatchMode:
    """Stands for `TorchDispatchMode` where PyTorch has none: operators run unchanged."""

    def __enter__(self) -> NoDispatchMode:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


if TYPE_CHECKING:
    from torch._C import DisableTorchFunction
    from torch._ops import HigherOrderOperator, OpOverload
    from torch._subclasses import FakeTensor, FakeTensorMode
    from torch.utils import _pytree as pytree
    from torch.utils._python_dispatch import TorchDispatchMode

    GroupOpener = Callable[[distributed.Store, int], distributed.ProcessGroup]
else:
    pytree = first_of("torch.utils._pytree", "torch.utils.pytree")
    FakeTensor = first_of(
        "torch._subclasses.FakeTensor", "torch._subclasses.fake_tensor.FakeTensor"
    )
    FakeTensorMode = first_of(
        "torch._subclasses.FakeTensorMode", "torch._subclasses.fake_tensor.FakeTensorMode"
    )
    DisableTorchFunction = first_of("torch._C.DisableTorchFunction")
    HigherOrderOperator = first_of("torch._ops.HigherOrderOperator")
    OpOverload = type(torch.ops.aten.relu.default)
    try:
        TorchDispatchMode = first_of("torch.utils._python_dispatch.TorchDispatchMode")
    except ImportError:
        TorchDispatchMode = NoDispatchMode

FUNCTION_TRANSFORMS = "torch._functorch.predispatch"
"""The module of the calls that torch.export records where a transform of ``torch.func`` begins."""

SET_GRAD_ENABLED: Callable[[bool], None] | None = getattr(torch._C, "_set_grad_enabled", None)
"""What `torch.no_grad` and its like call, as a `TorchFunctionMode` sees it."""


@contextmanager
def transforms_undone() -> Iterator[None]:
    """Leave every ``torch.func`` transform that is entered within, also if an error is raised.

    A forward that fails inside of ``torch.func.jvp``, say, would leave PyTorch inside of it, and
    each later capture in the process would fail.

    Examples
    --------
    >>> with transforms_undone():
    ...     torch.vmap(torch.neg)(torch.ones(2))
    tensor([-1., -1.])
    """
    functorch = getattr(torch._C, "_functorch", None)
    depth = getattr(functorch, "get_dynamic_layer_stack_depth", None)
    undo = getattr(functorch, "pop_dynamic_layer_stack_and_undo_to_depth", None)
    before = depth() if depth is not None else 0
    try:
        yield
    finally:
        if depth is not None and undo is not None and depth() > before:
            undo(before)


@contextmanager
def stack_traces_left_out() -> Iterator[None]:
    """Export without the Python stack of each call: nobody reads it, and it takes long to record.

    Examples
    --------
    >>> with stack_traces_left_out():
    ...     program = torch.export.export(torch.nn.ReLU(), (torch.ones(2),), strict=False)
    >>> any(node.stack_trace for node in program.graph.nodes)
    False
    """
    try:
        config: Any = importlib.import_module("torch.fx.config")
        before = config.do_not_emit_stack_traces
    except (ImportError, AttributeError):
        yield
        return
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before


@contextmanager
def graphs_not_compiled() -> Iterator[None]:
    """Export without a Python function of each graph, unless it is called: only its calls are read.

    Examples
    --------
    >>> with graphs_not_compiled():
    ...     program = torch.export.export(torch.nn.ReLU(), (torch.ones(2),), strict=False)
    >>> [node.name for node in program.graph.nodes if node.op == "call_function"]
    ['relu']
    """
    try:
        lazily = first_of("torch.fx._lazy_graph_module._use_lazy_graph_module")(True)
    except ImportError:
        lazily = nullcontext()
    with lazily:
        yield


def arguments_of(operator: Callable[..., Any]) -> Sequence[torch.Argument]:
    """The arguments of an operator's overload, as its schema declares them.

    Parameters
    ----------
    operator
        An overload such as ``torch.ops.aten.relu.default``.

    Returns
    -------
    sequence of torch.Argument
        With ``name``, ``default_value``, ``kwarg_only`` and ``alias_info``.

    Raises
    ------
    ImportError
        If this version of PyTorch does not show the schema.

    Examples
    --------
    >>> [argument.name for argument in arguments_of(torch.ops.aten.threshold.default)]
    ['self', 'threshold', 'value']
    """
    schema = getattr(operator, "_schema", None)
    if schema is None:
        raise lacks(f"_schema of the operator {operator}")
    return schema.arguments


def script_converter() -> Callable[..., torch.export.ExportedProgram]:
    """What converts TorchScript and its inputs to an exported program.

    Raises
    ------
    ImportError
        If this version of PyTorch has no converter.
    """
    converter = first_of("torch._export.converter.TS2EPConverter")
    return lambda script, inputs: converter(script, inputs, {}).convert()


def gloo_opener(address: str, timeout: timedelta) -> GroupOpener:
    """What makes gloo's groups of two ranks, given a store and this process's rank of the two.

    Parameters
    ----------
    address
        Of this host, by which the other ranks reach it.  A PyTorch without this choice takes the
        interface of the host's name, or the one that ``GLOO_SOCKET_IFNAME`` names.
    timeout
        After which a message that did not arrive is an error.
    """
    kind: Any = distributed.ProcessGroupGloo
    if not hasattr(kind, "_Options") or not hasattr(kind, "create_device"):
        return lambda store, rank: kind(store, rank, 2, timeout)
    options: Any = kind._Options()
    options._devices = [kind.create_device(hostname=address)]
    options._timeout = timeout
    return lambda store, rank: kind(store, rank, 2, options)


def nccl_opener(timeout: timedelta, blocks: int) -> GroupOpener:
    """The function that makes NCCL's groups of two ranks, from a store and this process's rank.

    Parameters
    ----------
    timeout
        Time after which a message that did not arrive is an error.
    blocks
        Most thread blocks of the GPU that a group takes; ignored if NCCL has no such setting.
    """

    def open_group(store: distributed.Store, rank: int) -> distributed.ProcessGroup:
        kind: Any = distributed.ProcessGroupNCCL
        options = kind.Options()
        options._timeout = timeout
        if hasattr(options, "config"):
            options.config.max_ctas = blocks
        return kind(store, rank, 2, options)

    return open_group


def freeze_compiled_weights() -> None:
    """Have `torch.compile` treat weights as constants from now on, in this process.

    Raises
    ------
    ImportError
        If this version of PyTorch has no such switch.
    """
    config = first_of("torch._inductor.config")
    if not hasattr(config, "freezing"):
        raise lacks("torch._inductor.config.freezing")
    config.freezing = True


def decomposition_of(op: Any) -> Callable[..., Any] | None:
    """PyTorch's own definition of an operator by simpler ones; None where it has none.

    Parameters
    ----------
    op
        An overload.

    Examples
    --------
    >>> decomposition_of(torch.ops.aten.hypot.default) is None
    False
    """
    try:
        table = importlib.import_module("torch._decomp").decomposition_table
        if op in table:
            return table[op]
        return _default_decompositions()[op] if op._can_decompose() else None
    except (ImportError, AttributeError, KeyError):
        return None


@functools.cache
def _default_decompositions() -> Mapping[Any, Callable[..., Any]]:
    """PyTorch's table of definitions, which takes a tenth of a second to make."""
    return torch.export.default_decompositions()


def cpu_flash_attention() -> Callable[..., Sequence[torch.Tensor]] | None:
    """PyTorch's attention for CPUs that also gives logarithms of sums; None without such a one.

    The caller compares what it gives with plain operators before it relies on it.
    """
    packet = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    return getattr(packet, "default", None)
