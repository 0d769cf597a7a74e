"""A chain whose matrix is stored."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_floating, check_rows
from attnchain.errors import ShapeError
from attnchain.operators.base import (
    AbstractTransition,
    BatchIndex,
    Target,
    batch_select,
    computing_dtype,
)

_ROW_TOLERANCE = {
    torch.float64: 1e-5,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
"""How far a softmax row may be from sum one (a float64 one may be an upcast)."""


@dataclass(frozen=True, eq=False, repr=False)
class DenseTransition(AbstractTransition):
    """A batch of stored transition matrices.

    Rows are checked, never repaired: a row that does not sum to one within what
    its precision explains is an error. Half-precision matrices are computed with in
    float32, entry by entry as given.

    Args:
        matrix: Row-stochastic matrices `(*batch, n, n)`.
        atol: Largest deviation of a row sum from one; by default what rounding to
            the matrix's precision explains.

    Raises:
        ShapeError: The matrix is not square or not floating point.
        NotStochasticError: A row is negative, not finite, or does not sum to one.

    Example:
        >>> import torch
        >>> DenseTransition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
        DenseTransition(shape=(2, 2), float32, cpu)
    """

    matrix: Float[Tensor, "*batch n n"]
    atol: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_floating(self.matrix, "matrix")
        shape = tuple(self.matrix.shape)
        if len(shape) < 2 or shape[-1] != shape[-2] or 0 in shape:
            message = f"matrix must be square, (*batch, n, n), but has shape {shape}"
            raise ShapeError(message)
        dtype = self.matrix.dtype
        atol = _ROW_TOLERANCE.get(dtype, 1e-5) if self.atol is None else self.atol
        check_rows(self.matrix.detach(), atol)
        object.__setattr__(self, "matrix", self.matrix.to(computing_dtype(dtype)))

    @property
    def shape(self) -> torch.Size:
        return self.matrix.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def _push(self, vectors: Tensor) -> Tensor:
        return vectors @ self.matrix

    def _pull(self, observables: Tensor) -> Tensor:
        return observables @ self.matrix.mT

    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        return self.matrix

    def _select(self, index: BatchIndex) -> "DenseTransition":
        return self.trusted(batch_select(self.matrix, index, 2))

    def to(self, target: Target) -> "DenseTransition":
        return self.trusted(self.matrix.to(target))

    @classmethod
    def trusted(cls, matrix: Tensor) -> "DenseTransition":
        """Wraps rows that are known to be stochastic, without another pass."""
        transition = object.__new__(cls)
        object.__setattr__(transition, "matrix", matrix)
        object.__setattr__(transition, "atol", None)
        return transition
