"""A continuous-time process as one of our chains."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnchain.operators import AbstractTransition

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True, eq=False, repr=False)
class SparseTransition(AbstractTransition):
    """One chain of which only the entries that are not zero are stored.

    Attributes:
        matrix: P, `(n, n)`, sparse.
        transposed: P transposed, `(n, n)`, sparse.
    """

    matrix: Tensor
    transposed: Tensor

    @classmethod
    def uniformized(cls, generator: "csr_array", rate: float) -> "SparseTransition":
        r"""$P = I + Q / \Lambda$: the process seen at the ticks of a clock of rate Λ.

        It has the stationary law of the process, and eigenvalues 1 + q / Λ.

        Args:
            generator: Q, rows summing to zero.
            rate: Λ, at least the largest rate out of a state.
        """
        from scipy.sparse import coo_array, eye_array

        n = len(generator.diagonal())
        matrix = coo_array(eye_array(n) + generator / rate)
        places = torch.stack([torch.as_tensor(axis).long() for axis in matrix.coords])
        values, size = torch.as_tensor(matrix.data), (n, n)
        return cls(_sparse(places, values, size), _sparse(places.flip(0), values, size))

    @property
    def _part(self) -> Tensor:
        return self.matrix

    def _push(self, vectors: Tensor) -> Tensor:
        return torch.sparse.mm(self.transposed, vectors.mT).mT

    def _pull(self, observables: Tensor) -> Tensor:
        return torch.sparse.mm(self.matrix, observables.mT).mT

    def _select(self, index: object) -> AbstractTransition:
        raise IndexError(index)  # there is no batch dimension

    def to(self, target: torch.dtype | torch.device | str) -> "SparseTransition":
        return SparseTransition(self.matrix.to(target), self.transposed.to(target))


def _sparse(places: Tensor, values: Tensor, size: tuple[int, ...]) -> Tensor:
    matrix = torch.sparse_coo_tensor(places, values, size, check_invariants=True)
    return matrix.coalesce()
