"""Products of two tensors, by whatever function: which axes they sum over."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, cast

import torch
from torch import Tensor

MATRIX_PRODUCTS = (
    *(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm),
    *(torch.bmm, Tensor.bmm, torch.baddbmm, Tensor.baddbmm),
)
PRODUCTS = (*MATRIX_PRODUCTS, torch.einsum)
NAMES = ("input", "batch1", "other", "mat2", "batch2")


@dataclass(frozen=True, eq=False)
class Factors:
    """The two factors of a product.

    Attributes:
        both: Left and right one.
        labels: Letters of their axes, and of those of the result, in einsum.
    """

    both: tuple[Tensor, Tensor]
    labels: tuple[str, str, str] | None = None

    def rows_of(self, weights: Tensor, axis: int) -> list[int] | None:
        """How to order the axes of a factor, so that its rows weigh the other one.

        Args:
            weights: One of the factors.
            axis: The axis, counted from the end, along which it sums to one.

        Returns:
            Its axes, those of keys last and of queries before them; None where the
            product does not sum over the keys.
        """
        first = weights is self.both[0]
        if self.labels is None:
            if first and axis == -1:
                return list(range(weights.ndim))
            return swapped(weights.ndim) if not first and axis == -2 else None
        own, other = self.labels[:2] if first else self.labels[1::-1]
        return _rows(own, other, self.labels[2], own[axis])


def factors(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Factors | None:
    """The factors of a product; None where they are not two tensors.

    Einsum has an equation first, baddbmm a summand.
    """
    given: list[Any] = [*args, *(kwargs[name] for name in NAMES if name in kwargs)]
    equation = given.pop(0) if func is torch.einsum else None
    if len(given) == 1 and isinstance(given[0], list | tuple):
        given = list(cast("Sequence[Any]", given[0]))
    given = given[1:] if len(given) == 3 else given
    if len(given) != 2 or not all(isinstance(x, Tensor) for x in given):
        return None
    left, right = given
    if equation is None:
        return Factors((left, right))
    labels = _labels(equation, left.ndim, right.ndim)
    return None if labels is None else Factors((left, right), labels)


def permutation(source: Tensor, result: Tensor) -> list[int] | None:
    """Which axis of one tensor each axis of its view is; None where it is no such view.

    Any function may have made it: transpose, permute, movedim, `.mT`.
    """
    if source.ndim != result.ndim or source.ndim < 2 or source.is_meta:
        return None
    if source.untyped_storage().data_ptr() != result.untyped_storage().data_ptr():
        return None
    axes = list(zip(source.shape, source.stride(), strict=True))
    moved = list(zip(result.shape, result.stride(), strict=True))
    turned = [*axes[:-2], axes[-1], axes[-2]]
    if moved == turned and source.data_ptr() == result.data_ptr():
        return swapped(source.ndim)
    if sorted(axes) != sorted(moved) or len(set(axes)) < len(axes):
        return None
    return [axes.index(axis) for axis in moved]


def swapped(n_axes: int) -> list[int]:
    """So many axes in order, but for the last two."""
    return [*range(n_axes - 2), n_axes - 1, n_axes - 2]


def _labels(equation: Any, *n_axes: int) -> tuple[str, str, str] | None:
    """Letters of the axes of two factors and of their product."""
    if not isinstance(equation, str):
        return None
    given, arrow, result = equation.replace(" ", "").partition("->")
    parts = given.split(",")
    if len(parts) != 2:
        return None
    more = [n - len(part.replace("...", "")) for n, part in zip(n_axes, parts)]  # noqa: B905
    dots = [ascii_uppercase[max(more) - n : max(more)] for n in more]
    one, other = (
        part.replace("...", dot) for part, dot in zip(parts, dots, strict=True)
    )
    if not arrow:
        once = [x for x in one + other if (one + other).count(x) == 1]
        result = "".join(sorted(once))
    return one, other, result.replace("...", ascii_uppercase[: max(more)])


def _rows(own: str, other: str, result: str, keys: str) -> list[int] | None:
    """Axes of weights: those of both factors, then queries, then keys."""
    queries = [x for x in own if x not in other]
    shared = [x for x in own if x in other and x != keys]
    inside = all(x in result for x in (*queries, *shared))
    if len(queries) != 1 or keys not in other or keys in result or not inside:
        return None
    if len(set(own)) < len(own):
        return None
    return [own.index(x) for x in (*shared, *queries, keys)]
