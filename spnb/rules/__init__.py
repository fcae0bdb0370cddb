"""What each operator reads, and how a part of its result is computed.

A rule answers two questions about one call.  *Which part of each operand is needed* to compute a
region of the result; and *how to compute* that region from exactly the needed part.  Both work
axis by axis over ``(batch, *spatial)``; a tensor's `Axes` say where those axes lie in it.

A window operator (convolution, pooling) that computes ``[o0, o1)`` reads, on each axis, ::

      o0*stride - pad                          (o1-1)*stride - pad + dilation*(kernel-1) + 1
         |<------------------------- need --------------------------->|
    - - -+--------------------------------------------------- - - - - + - -
      pad|  the operand's own extent: other ranks' tiles              |pad

(the receptive field arithmetic of Dumoulin & Visin, *A guide to convolution arithmetic for deep
learning*, 2016).  What falls outside the extent is *this operator's own padding* and is added
here, at the image's border only, and not before: so fused halos stay exact.

May import `spnb.ir` and `spnb.kernels`.  Begin with `base.Rule`, then `windows.Window`.  There is a
module for each family of operators:

=============  ====================================================================================
elementwise    elementwise operators, with broadcasting; operators along channels
dropout        dropout in training, by position
convolutions   convolution
pools          pooling
unfold         windows as columns, or as a dimension
fused          a convolution with what follows it
int8           calls of 8-bit numbers
transposed     transposed convolution, folding
interpolate    nearest, linear and cubic interpolation
sampling       sampling at coordinates: positions and their shares
sampled        samples at coordinates that are constants
resize         adaptive pooling, pixel shuffle
borders        padding: constant, reflect, replicate, circular
slices         slice, select, index; assignments to slices
rearrange      concatenate, roll, flip
boxes          a box of a value for each tile
realigned      other dimensions are cut, for turned images
constants      constants that are joined to values
positions      constant positions, places of largest numbers, unpooling
triangles      triangles and diagonals
lookups        rows of a table, places in a sorted one, gather and scatter along channels
views          view, permute, expand
copies         copies along channels or space
cut_constants  constants as large as the image, such as masks of windows
cyclic_cut     another part of an axis is cut, for grids of windows
held_whole     small values that are copied for each window
fourier        Fourier transforms of channels, or in windows
matmul         linear, matrix products
attention      attention: of all queries to some or all keys
key_pieces     attention over keys in pieces, one piece after another
ring           attention over all positions: the keys of tiles go round
ring_steps     the steps of such attention
matrices       determinants, inverses and eigenvalues of small matrices
fallback       operators that need whole operands, and those without a rule
loops          loops with a body of several operators
=============  ====================================================================================

Operators that read the whole image are in the folder ``merged``: each tile computes figures of its
own, which are merged.

=============  ====================================================================================
tile_products  matrix products that sum over space
reductions     mean, sum, largest, variance, norm over space
largest        the k largest numbers over space
counts         histograms
merging        figures of tiles, and the calls that merge them
token_pools    means and maxima over runs of tokens
scatters       sums and extremes of positions with the same number
scans          cumulative sums, products and largest numbers: continued from tile to tile
piece_norms    batch norm in training of a value in pieces
norms          group, instance, layer, batch and RMS norm, softmax over space
=============  ====================================================================================

Add an operator with `rule`; its function looks at the call and returns a `Rule`:

>>> @rule("mylib.swish")               # a custom operator torch.ops.mylib.swish, elementwise
... def swish(node):
...     return Rule(node)

An operator that is not elementwise has a subclass.  This one subtracts from each row the row below;
the last row has none below, so the result has one row less:

>>> import torch
>>> @torch.library.custom_op("spnb_example::below", mutates_args=())
... def below(x: torch.Tensor) -> torch.Tensor:
...     return x[..., :-1, :] - x[..., 1:, :]
>>> @below.register_fake
... def shape_of_below(x):
...     return x[..., 1:, :].clone()

A row of the result reads two rows of the operand, and `need` says so.  `Direct.apply` calls the
operator on the rows that are needed:

>>> from spnb.ir.axes import dim
>>> class Below(Direct):
...     @property
...     def axes(self):
...         operand, rows = self.node.operand_axes[0], self.node.shape[-2]
...         return operand.with_dims([*operand.dims[:-2], dim(rows, 1), operand.dims[-1]])
...
...     def need(self, operand, axis, span):
...         return (span[0], span[1] + 1) if axis == 1 else span
>>> @rule("spnb_example.below")
... def rule_of_below(node):
...     return Below(node)

Now tiles exchange one row, and their result equals that of one process:

>>> import spnb
>>> class Network(torch.nn.Module):
...     def forward(self, x):
...         return below(x)
>>> job = spnb.Job(
...     Network(), input_shapes=[(1, 3, 12, 12)], batch_size=1, split_size=1, num_spatial_parts=4
... )
>>> spnb.InProcess(spnb.plan(job), progress=False).infer().check().max_abs_error
0.0
"""

# each of these modules registers its operators
from . import (
    attention,
    borders,
    boxes,
    constants,
    convolutions,
    copies,
    cut_constants,
    cyclic_cut,
    dropout,
    elementwise,
    fourier,
    fused,
    held_whole,
    int8,
    interpolate,
    key_pieces,
    lookups,
    loops,
    matmul,
    matrices,
    pools,
    positions,
    realigned,
    rearrange,
    resize,
    ring,
    ring_steps,
    sampled,
    slices,
    transposed,
    triangles,
    unfold,
    views,
)
from .base import Direct, Local, Rule
from .fallback import Unknown, Whole, gathered_axes, rule_of, whole_axes
from .merged import (
    counts,
    largest,
    merging,
    norms,
    piece_norms,
    reductions,
    scans,
    tile_products,
    token_pools,
)
from .registry import has_rule, module_of_rule, registered, rule
from .spatial import Spatial, places
from .windows import Window

__all__ = [
    "Direct",
    "Local",
    "Rule",
    "Spatial",
    "Unknown",
    "Whole",
    "Window",
    "attention",
    "borders",
    "boxes",
    "constants",
    "convolutions",
    "copies",
    "counts",
    "cut_constants",
    "cyclic_cut",
    "dropout",
    "elementwise",
    "fourier",
    "fused",
    "gathered_axes",
    "has_rule",
    "held_whole",
    "int8",
    "interpolate",
    "key_pieces",
    "largest",
    "lookups",
    "loops",
    "matmul",
    "matrices",
    "merging",
    "module_of_rule",
    "norms",
    "piece_norms",
    "places",
    "pools",
    "positions",
    "realigned",
    "rearrange",
    "reductions",
    "registered",
    "resize",
    "ring",
    "ring_steps",
    "rule",
    "rule_of",
    "sampled",
    "scans",
    "slices",
    "tile_products",
    "token_pools",
    "transposed",
    "triangles",
    "unfold",
    "views",
    "whole_axes",
]
