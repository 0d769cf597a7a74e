"""Attention that a model computes itself: a softmax whose rows weigh values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from attnchain.capturing.calls import RunningModule, heads_last

SOFTMAX = (torch.softmax, functional.softmax, Tensor.softmax, torch.special.softmax)
PRODUCTS = (
    *(torch.matmul, Tensor.matmul, Tensor.__matmul__),
    *(torch.bmm, Tensor.bmm, torch.baddbmm, Tensor.baddbmm, torch.einsum),
)
DROPOUT = (functional.dropout, torch.dropout)
RESHAPING = frozenset({"view", "reshape", "flatten", "unflatten"})
KEEPING = RESHAPING | frozenset(
    {"to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous"}
    | {"clone", "detach", "expand", "expand_as", "squeeze", "unsqueeze", "nan_to_num"}
    | {"__getitem__", "narrow", "masked_fill", "masked_fill_", "where", "mul"}
    | {"__mul__", "__rmul__", "__imul__", "mul_", "_to_copy", "slice"}
)
FEWEST_AXES = 3


@dataclass(frozen=True, eq=False)
class Weights:
    """Scores, then the rows of their softmax, on their way to the values.

    Attributes:
        q: What was multiplied to scores from the left.
        k: What was multiplied to scores from the right.
        matrix: The softmax as it is multiplied, except for dropout; None before it.
        running: The module that computed the softmax.
        turned: Whether keys are its rows now, to weigh values from the right.
    """

    q: Tensor | None = None
    k: Tensor | None = None
    matrix: Tensor | None = None
    running: RunningModule | None = None
    turned: bool = False


@dataclass(frozen=True, eq=False)
class Weighed:
    """Attention that was computed by hand.

    Attributes:
        matrix: Rows of weights `(pictures, heads, n, m)`.
        parts: Queries, keys and values, as far as they are known.
        running: The module that computed the softmax.
        attached: The matrix in the graph of the model.
    """

    matrix: Tensor
    parts: tuple[Tensor, Tensor, Tensor]
    running: RunningModule
    attached: Tensor


class Softmaxes:
    """Follows softmax matrices until they weigh values, which makes them attention."""

    def __init__(self) -> None:
        self._weights: Any = WeakIdKeyDictionary()
        self.unused: dict[RunningModule, None] = {}

    def follow(
        self, running: RunningModule, func: Callable[..., Any], args: Any, result: Any
    ) -> Weighed | None:
        """Follows a function; returns attention where weights multiply values.

        Args:
            running: The running module.
            func: A torch function.
            args: Its positional arguments.
            result: What it gave.
        """
        if not isinstance(result, Tensor):
            return None
        if func in PRODUCTS:
            return self._multiplied(_operands(func, args), result)
        source = self._known(args)
        found = None if source is None else self._weights[source]
        if func in SOFTMAX:
            if result.ndim >= FEWEST_AXES and bool(result.shape[-1]):
                known = replace(found or Weights(), matrix=result, running=running)
                self._weights[result] = known
                self.unused[running] = None
        elif source is not None:
            self._passed_on(func, source, result)
        return None

    def _multiplied(self, operands: Sequence[Any], result: Tensor) -> Weighed | None:
        """Scores, where both are numbers; attention, where the left one is weights.

        Or the right one, where they are turned: values of channels by tokens.
        """
        if len(operands) != 2 or not all(isinstance(x, Tensor) for x in operands):
            return None
        left, right = operands
        turned = self._weights.get(right)
        if turned is not None and turned.turned:
            left, right = right, left.mT
        weights = self._weights.get(left)
        if weights is not None and weights.turned and weights is not turned:
            return None
        if weights is None or weights.matrix is None:
            if left.ndim >= FEWEST_AXES:
                self._weights[result] = Weights(left, right)
            return None
        if isinstance(right, nn.Parameter) or right.ndim < FEWEST_AXES:
            return None
        self.unused.pop(weights.running, None)
        q = left if weights.q is None else weights.q
        k = right if weights.k is None else weights.k
        matrix = _four_axes(weights.matrix, weights.running.heads())
        return Weighed(matrix, (q, k, right), weights.running, weights.matrix)

    def _passed_on(
        self, func: Callable[..., Any], source: Tensor, result: Tensor
    ) -> None:
        """Scores go through anything; weights stay weights where they are kept."""
        found: Weights = self._weights[source]
        if found.matrix is None:
            self._weights[result] = found
            return
        name = getattr(func, "__name__", "")
        if found.turned:
            if name in ("contiguous", "clone"):
                self._weights[result] = found
        elif func in DROPOUT:
            self._weights[result] = found
        elif name in KEEPING and result.ndim >= FEWEST_AXES:
            merged = name in RESHAPING and result.shape[-2:] == found.matrix.shape[-2:]
            self._weights[result] = found if merged else replace(found, matrix=result)
        elif _is_turned(result, source):
            self._weights[result] = replace(found, turned=True)

    def _known(self, args: Any) -> Tensor | None:
        """The first argument that is followed."""
        if not len(self._weights):
            return None
        tensors = (x for x in args if isinstance(x, Tensor))
        return next((x for x in tensors if x in self._weights), None)


def _is_turned(result: Tensor, source: Tensor) -> bool:
    """Whether the one is the other's transpose in the last two axes, by any name."""
    swapped = (*source.shape[:-2], *source.shape[:-3:-1])
    strides = (*source.stride()[:-2], *source.stride()[:-3:-1])
    same = result.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
    return same and (tuple(result.shape), result.stride()) == (swapped, strides)


def _operands(func: Callable[..., Any], args: Any) -> Sequence[Any]:
    """The factors of a product; einsum has an equation, baddbmm a summand first."""
    if func is torch.einsum:
        args = args[1:]
        return args[0] if len(args) == 1 and isinstance(args[0], list | tuple) else args
    return args[1:] if len(args) == 3 else args


def _four_axes(matrix: Tensor, heads: int | None) -> Tensor:
    """Pictures and heads apart, where the module tells how many heads there are."""
    if matrix.ndim > 3:
        return heads_last(matrix.detach(), heads).flatten(0, -4)
    heads = heads if heads and matrix.shape[0] % heads == 0 else 1
    return matrix.detach().unflatten(0, (-1, heads))
