"""What each operator reads: the one place that knows about operators.

A rule answers two questions about one call.  *Which part of each operand is needed* to compute a
region of the result; and *how to compute* that region from exactly the needed part.  Both work
axis by axis over ``(batch, *spatial)``.

A window operator (convolution, pooling) that computes ``[o0, o1)`` reads, on each axis, ::

      o0*stride - pad                          (o1-1)*stride - pad + dilation*(kernel-1) + 1
         |<------------------------- need --------------------------->|
    - - -+--------------------------------------------------- - - - - + - -
      pad|  the operand's own extent: other ranks' tiles              |pad

(the receptive field arithmetic of Dumoulin & Visin, *A guide to convolution arithmetic for deep
learning*, 2016).  What falls outside the extent is *this operator's own padding* and is added
here, at the image's border only, and never earlier: that keeps fused halos exact.

Add an operator with `rule`; its function looks at the call and returns a `Rule`:

>>> @rule("mylib.swish")               # a custom operator torch.ops.mylib.swish, elementwise
... def swish(node):
...     return Rule(node)
"""

from .base import Rule, has_rule, home_of, rule, rule_of
from .elementwise import elementwise  # each of these modules registers its operators
from .whole import Whole
from .windows import Window

__all__ = ["Rule", "Whole", "Window", "elementwise", "has_rule", "home_of", "rule", "rule_of"]
