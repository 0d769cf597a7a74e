"""Attention that a model computes itself: a softmax whose rows weigh values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from attnchain.capturing.calls import RunningModule, heads_last, is_split_in_heads
from attnchain.capturing.products import (
    PRODUCTS,
    Factors,
    factors,
    permutation,
    swapped,
)

SOFTMAX: tuple[Any, ...] = (
    *(torch.softmax, functional.softmax, Tensor.softmax),
    cast("Any", torch.special.softmax),  # pyright: ignore[reportUnknownMemberType]
)
DROPOUT = (functional.dropout, torch.dropout)
COPYING = frozenset(
    {"to", "type", "type_as", "float", "half", "bfloat16", "double", "_to_copy"}
    | {"contiguous", "clone", "detach"}
)
RESHAPING = frozenset({"view", "reshape", "flatten", "unflatten"})
CUTTING = RESHAPING | frozenset(
    {"__getitem__", "narrow", "slice", "expand", "expand_as", "squeeze", "unsqueeze"}
)
DIVIDING = frozenset({"div", "div_", "divide", "true_divide", "__truediv__"})
EXPONENTIAL = frozenset({"exp", "exp_"})
CHANGING = DIVIDING | frozenset(
    {"masked_fill", "masked_fill_", "where", "nan_to_num", "clamp", "clamp_", "clip"}
    | {"mul", "__mul__", "__rmul__", "__imul__", "mul_"}
    | {"add", "__add__", "__radd__", "__iadd__", "add_"}
)
FEWEST_AXES = 3


@dataclass(frozen=True, eq=False)
class Weights:
    """Scores, then the rows of their softmax, on their way to the values.

    Attributes:
        q: What was multiplied to scores from the left.
        k: What was multiplied to scores from the right.
        born: The module that multiplied them.
        raw: Whether they went through an exponential.
        matrix: The softmax as it is multiplied, except for dropout; None before it.
        running: The module that computed the softmax.
        axis: The axis, counted from the end, along which it sums to one.
        attached: The matrix in the graph of the model; None once its axes moved.
    """

    q: Tensor | None = None
    k: Tensor | None = None
    born: RunningModule | None = None
    raw: bool = False
    matrix: Tensor | None = None
    running: RunningModule | None = None
    axis: int = -1
    attached: Tensor | None = None

    @property
    def of_two(self) -> bool:
        """Whether they are scores between two tensors of which none is learned."""
        return _is_computed(self.q) and _is_computed(self.k)


@dataclass(frozen=True, eq=False)
class Weighed:
    """Attention that was computed by hand.

    Attributes:
        matrix: Rows of weights `(pictures, heads, n, m)`.
        parts: Queries, keys and values, as far as they are known.
        running: The module that computed the softmax.
        attached: The matrix in the graph of the model, where its axes are the same.
    """

    matrix: Tensor
    parts: tuple[Tensor, Tensor, Tensor]
    running: RunningModule
    attached: Tensor | None


class Softmaxes:
    """Follows softmax matrices until they weigh values, which makes them attention.

    Attributes:
        unused: Names of modules with softmaxes of scores between two computed tensors
            that weighed nothing yet, by run, queries and keys.
        others: Modules with other softmaxes that weighed nothing yet; of anything.
    """

    def __init__(self) -> None:
        self._weights: Any = WeakIdKeyDictionary()
        self._mixed: Any = WeakIdKeyDictionary()
        self.unused: dict[tuple[int, int, int], str] = {}
        self.others: dict[RunningModule, None] = {}

    def follow(
        self,
        stack: Sequence[RunningModule],
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> Weighed | None:
        """Follows a function; returns attention where weights multiply values.

        Args:
            stack: The running modules that may attend, outermost first.
            func: A torch function.
            args: Its positional arguments.
            kwargs: Its arguments by keyword.
            result: What it gave.
        """
        if not isinstance(result, Tensor):
            return None
        if func in PRODUCTS:
            return self._multiplied(stack[-1], factors(func, args, kwargs), result)
        source = self._known((*args, *kwargs.values()))
        found = Weights() if source is None else self._weights[source]
        if func in SOFTMAX:
            axis = _axis(args, kwargs, result.ndim)
            if found.matrix is None and axis == -2:
                found = replace(found, q=found.k, k=found.q)
            self._normalised(stack, found, result, axis)
        elif source is not None and found.matrix is None:
            self._passed_on_scores(stack, func, found, result)
        elif source is not None:
            self._passed_on(func, found, source, result)
        return None

    def _normalised(
        self, stack: Sequence[RunningModule], found: Weights, result: Tensor, axis: int
    ) -> None:
        """Notes a softmax: of scores, or of anything with enough axes."""
        own, running = found.of_two and found.born in stack, stack[-1]
        if not result.shape[axis] or (result.ndim < FEWEST_AXES and not own):
            return
        if own:
            self.unused[_place(running, result, axis)] = running.name
        else:
            self.others[running] = None
        if own or axis == -1:
            weights = replace(found, matrix=result, attached=result, axis=axis)
            self._weights[result] = replace(weights, running=running)

    def _multiplied(
        self, running: RunningModule, pair: Factors | None, result: Tensor
    ) -> Weighed | None:
        """Scores, where both are numbers; attention, where one is weights.

        Or neither: values are no product of two computed tensors, unless of weights.
        """
        if pair is None:
            return None
        for one, other in (pair.both, pair.both[::-1]):
            weights = self._weights.get(one)
            if weights is not None and weights.matrix is not None:
                return self._weighed(pair, weights, one, other, result)
        left, right = pair.both
        if left.ndim >= FEWEST_AXES or (_is_computed(left) and _is_computed(right)):
            self._weights[result] = Weights(left, right, born=running)
        if _is_computed(left) and _is_computed(right):
            self._mixed[result] = True
        return None

    def _weighed(
        self,
        pair: Factors,
        weights: Weights,
        one: Tensor,
        values: Tensor,
        result: Tensor,
    ) -> Weighed | None:
        """Attention, if the product sums over the keys and the values are values."""
        matrix, running = weights.matrix, weights.running
        order = pair.rows_of(one, weights.axis)
        if matrix is None or running is None or order is None:
            return None
        place = _place(running, matrix, weights.axis)
        if weights.q is None and values in self._mixed:
            self.unused[place] = running.name
            return None
        if isinstance(values, nn.Parameter):
            return None
        self._mixed[result] = True
        self.unused.pop(place, None)
        self.others.pop(running, None)
        if one.ndim == matrix.ndim:
            matrix = matrix.permute(order)
        elif order != list(range(one.ndim)):
            matrix = matrix.mT
        q = one if weights.q is None else weights.q
        k = values if weights.k is None else weights.k
        attached = weights.attached
        if attached is not None and _layout(attached) != _layout(matrix):
            attached = None
        rows = _four_axes(matrix, running)
        return Weighed(rows, (q, k, values), running, attached)

    def _passed_on_scores(
        self,
        stack: Sequence[RunningModule],
        func: Callable[..., Any],
        found: Weights,
        result: Tensor,
    ) -> None:
        """Scores go through anything; an exponential may be a softmax by hand."""
        name = getattr(func, "__name__", "")
        raw = found.raw or name in EXPONENTIAL
        self._weights[result] = replace(found, raw=raw)
        if not (raw and found.of_two and found.born in stack and result.ndim > 1):
            return
        if name in EXPONENTIAL:
            self.unused[_place(stack[-1], result, -1)] = stack[-1].name
        if name in EXPONENTIAL | DIVIDING and _are_distributions(result):
            self._normalised(stack, found, result, -1)

    def _passed_on(
        self, func: Callable[..., Any], found: Weights, source: Tensor, result: Tensor
    ) -> None:
        """Weights stay weights where they are copied, cut, turned or changed."""
        name, axis = getattr(func, "__name__", ""), found.axis
        kept: Weights | None = None
        changed = replace(found, matrix=result, attached=result)
        if func in DROPOUT or name in COPYING:
            kept = found
        elif name in CHANGING and result.shape == source.shape:
            divided = name in DIVIDING and axis != -1 and _are_distributions(result)
            kept = replace(changed, axis=-1) if divided else changed
        elif name in CUTTING and result.ndim > 1:
            kept = _cut(name, changed, source, result)
            merged = name in RESHAPING and result.shape[-2:] == source.shape[-2:]
            kept = found if merged else kept
        elif (order := permutation(source, result)) is not None:
            kept = _moved(found, source, order)
        if kept is not None:
            self._weights[result] = kept

    def _known(self, args: Any) -> Tensor | None:
        """The first argument that is followed."""
        if not len(self._weights):
            return None
        tensors = (x for x in args if isinstance(x, Tensor))
        return next((x for x in tensors if x in self._weights), None)


def _cut(name: str, changed: Weights, source: Tensor, result: Tensor) -> Weights | None:
    """Weights of which some axes were split, left out or repeated."""
    axis = changed.axis
    whole = result.ndim >= -axis and result.shape[axis] == source.shape[axis]
    cut = name in ("__getitem__", "narrow", "slice") and result.ndim == source.ndim
    return changed if whole or cut else None


def _moved(found: Weights, source: Tensor, order: list[int]) -> Weights | None:
    """Weights whose axes were moved."""
    axis, matrix = order.index(source.ndim + found.axis) - source.ndim, found.matrix
    if matrix is not None and matrix.ndim == source.ndim:
        return replace(found, matrix=matrix.permute(order), axis=axis)
    if matrix is not None and order == swapped(source.ndim):
        return replace(found, matrix=matrix.mT, axis=axis)
    return None


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return (tuple(tensor.shape), tensor.stride())


def _is_computed(tensor: Tensor | None) -> bool:
    """Whether it is no parameter of the model, nor a look at one."""
    if tensor is None or isinstance(tensor, nn.Parameter):
        return False
    return not isinstance(tensor._base, nn.Parameter)


def _axis(args: Sequence[Any], kwargs: Mapping[str, Any], n_axes: int) -> int:
    """The axis a softmax sums over, counted from the end."""
    given = kwargs.get("dim", next((x for x in args if isinstance(x, int)), -1))
    return -1 if given is None else given - n_axes if given >= 0 else given


def _place(running: RunningModule, matrix: Tensor, axis: int) -> tuple[int, int, int]:
    """The run of a module, and queries and keys, where the last axes run over them."""
    rows, columns = matrix.shape[-2:]
    sizes = (columns, rows) if axis == -2 else (rows, columns)
    return (running.serial, *sizes)


def _are_distributions(matrix: Tensor) -> bool:
    """Whether all rows sum to one, or to zero where nothing is seen."""
    if matrix.is_meta or not matrix.is_floating_point():
        return False
    totals = matrix.detach().sum(-1, dtype=torch.float64)
    return bool((((totals - 1).abs() < 0.01) | (totals == 0)).all())


def _four_axes(matrix: Tensor, running: RunningModule) -> Tensor:
    """Pictures and heads apart, where the module tells how many heads there are."""
    matrix, heads = matrix.detach(), running.heads()
    if matrix.ndim > 3:
        return heads_last(matrix, heads).flatten(0, -4)
    if matrix.ndim == 2:
        return matrix[None, None]
    split = heads and is_split_in_heads(running, matrix.shape[0], heads)
    parts = -1, heads if split and heads else 1
    return cast("Tensor", matrix.unflatten(0, parts))
