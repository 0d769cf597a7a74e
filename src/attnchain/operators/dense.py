"""A chain whose matrix is stored."""

# pyright: reportUnknownMemberType=false

from dataclasses import dataclass, field
from typing import Self, cast

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_floating, check_positive, check_rows
from attnchain.errors import ShapeError
from attnchain.operators.base import AbstractTransition, Axes, Target
from attnchain.operators.changes import Given, watchable
from attnchain.operators.indexing import BatchIndex, batch_select, remaining
from attnchain.operators.precision import computing_dtype
from attnchain.operators.reweighted import Restricted
from attnchain.operators.stacked import Stacked, for_each, indices

_ROW_TOLERANCE = {
    torch.float64: 1e-5,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
"""How far a softmax row may be from sum one (a float64 one may be an upcast)."""
_BLOCK = 2**20
"""Numbers that are added up in float64 at once."""


@dataclass(frozen=True, eq=False, repr=False)
class DenseTransition(AbstractTransition):
    r"""A batch of stored matrices: $P_{ij} = M_{ij} / \sum_l M_{il}$.

    A row that does not sum to one within what its precision explains is an error.
    What rounding has left of the sums is divided out: the chain is that of the given
    numbers, each row divided by its sum in float64. Half-precision matrices are
    computed with in float32.

    The matrix is not copied: changing it in place afterwards makes the next use of
    the chain an error.

    Args:
        matrix: Row-stochastic matrices `(*batch, n, n)`.
        atol: Largest deviation of a row sum from one; by default what rounding to
            the matrix's precision explains.
        axes: Names of the batch dimensions, as `mix` reads them.

    Attributes:
        row_sums: Sums the rows are divided by, `(*batch, n)`; None where all are one
            to the rounding of a product.

    Raises:
        ShapeError: The matrix is not square or not floating point.
        ArgumentError: It is no tensor, `atol` is not a number > 0, or the matrix was
            changed in place since (by the next use).
        NotStochasticError: A row is negative, not finite, or does not sum to one.

    Example:
        >>> import torch
        >>> DenseTransition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
        DenseTransition(shape=(2, 2), float32, cpu)
    """

    matrix: Float[Tensor, "*batch n n"]
    atol: float | None = field(default=None, kw_only=True)
    axes: Axes = field(default=None, kw_only=True)
    row_sums: Float[Tensor, "*batch n"] | None = field(default=None, init=False)
    _given: Given = field(init=False)

    def __post_init__(self) -> None:
        check_floating(self.matrix, "matrix")
        shape = tuple(self.matrix.shape)
        if len(shape) < 2 or shape[-1] != shape[-2] or 0 in shape:
            message = f"matrix must be square, (*batch, n, n), but has shape {shape}"
            raise ShapeError(message)
        dtype = self.matrix.dtype
        atol = _ROW_TOLERANCE.get(dtype, 1e-5) if self.atol is None else self.atol
        check_positive(atol, "atol")
        matrix = watchable(self.matrix.to(computing_dtype(dtype)))
        sums = _row_sums(matrix)
        check_rows(matrix.detach(), sums.detach(), atol)
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "row_sums", _uneven(matrix, sums))
        self._watch()

    @property
    def _part(self) -> Tensor:
        return self.matrix

    def _push(self, vectors: Tensor) -> Tensor:
        self._given.check()
        return self._divided(vectors) @ self.matrix

    def _pull(self, observables: Tensor) -> Tensor:
        self._given.check()
        return self._divided(observables @ self.matrix.mT)

    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        self._given.check()
        sums = self.row_sums
        return self.matrix if sums is None else self.matrix / sums[..., None]

    def _divided(self, rows: Tensor) -> Tensor:
        sums = self.row_sums
        return rows if sums is None else rows / sums[..., None, :]

    def restrict(self, keep: Tensor | slice) -> "Restricted | Stacked":
        """The chain on some states only, rows renormalised.

        Args:
            keep: As for `AttentionTransition.restrict`.

        Raises:
            ShapeError: It is no choice of states.
            ArgumentError: A chain is left no state, or a state is named twice.
        """
        if for_each(keep):
            return Stacked.restricting(self, keep)
        return Restricted(self, indices(keep, self.n_states))

    def _select(self, index: BatchIndex) -> Self:
        self._given.check()
        sums = self.row_sums
        if sums is not None:
            sums = batch_select(sums, index, 1)
        axes = remaining(self.axes, index)
        return self._made(batch_select(self.matrix, index, 2), sums, axes)

    def to(self, target: Target) -> Self:
        self._given.check()
        matrix, sums = self.matrix.to(target), self.row_sums
        if matrix.dtype == torch.float64 != self.dtype:
            return self._made(matrix, _uneven(matrix, _row_sums(matrix)), self.axes)
        return self._made(matrix, None if sums is None else sums.to(target), self.axes)

    @classmethod
    def trusted(cls, matrix: Tensor) -> Self:
        """Wraps rows that are known to be stochastic, without another pass."""
        return cls._made(matrix, None)

    @classmethod
    def _made(cls, matrix: Tensor, sums: Tensor | None, axes: Axes = None) -> Self:
        chain = cls._unchecked(matrix=matrix, row_sums=sums, atol=None, axes=axes)
        chain._watch()
        return chain

    def _watch(self) -> None:
        object.__setattr__(self, "_given", Given(matrix=self.matrix))


def _uneven(matrix: Tensor, sums: Tensor) -> Tensor | None:
    """The sums to divide by; none where no product in float64 sees a difference."""
    rounding = 4 * torch.finfo(torch.float64).eps
    even = matrix.dtype == torch.float64 and not matrix.requires_grad
    if even and bool(((sums - 1).abs() <= rounding).all()):
        return None
    return watchable(sums.to(matrix.dtype))


def _row_sums(matrix: Tensor) -> Tensor:
    """Row sums in float64, without a copy of the whole matrix in it."""
    n = matrix.shape[-1]
    blocks = cast(
        "tuple[Tensor, ...]", matrix.reshape(-1, n).split(max(1, _BLOCK // n))
    )
    sums = [block.sum(-1, dtype=torch.float64) for block in blocks]
    return torch.cat(sums).view(matrix.shape[:-1])
