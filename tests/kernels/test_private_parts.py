"""PyTorch's private parts are used in spnb.kernels only."""

import re
from pathlib import Path

import pytest

import spnb

PACKAGE = Path(spnb.__file__).parent
PRIVATE = re.compile(
    r"\btorch(\.\w+)*\._[A-Za-z]\w*"  # torch._C, torch.utils._pytree, torch.ops.mkldnn._reorder
    r"|from torch[.\w]* import .*\b_[A-Za-z]\w*"
    r"|\._schema\b|\._Options\b"
)


def test_private_parts_are_used_in_kernels_only():
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if "kernels" not in path.relative_to(PACKAGE).parts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.ops.mkldnn._reorder_convolution_weight(",
        "if function is torch._C._set_grad_enabled:",
        "from torch.utils import _pytree as pytree",
        "from torch._subclasses import FakeTensor",
        "schema = function._schema.arguments",
    ],
)
def test_uses_of_private_parts_are_found(line):
    assert PRIVATE.search(line)
