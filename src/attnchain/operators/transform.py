"""The same chain, slower or with its states in another order."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_fraction
from attnchain.errors import ArgumentError
from attnchain.operators.base import AbstractDerived, AbstractTransition, Target
from attnchain.operators.indexing import BatchIndex, kept_states
from attnchain.operators.precision import full_precision

if TYPE_CHECKING:
    from attnchain.operators.stacked import Stacked


@dataclass(frozen=True, eq=False, repr=False)
class Lazy(AbstractDerived):
    r"""The chain that stays where it is with some probability: $h I + (1 - h) P$.

    Same stationary distribution, and never periodic for h > 0.

    Args:
        base: The chain P.
        holding: Probability h of staying, in [0, 1].

    Raises:
        ArgumentError: Holding outside [0, 1].
    """

    base: AbstractTransition
    holding: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.holding, "holding", zero=True)

    def to(self, target: Target) -> "Lazy":
        return Lazy(self.base.to(target), self.holding)

    @full_precision
    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The matrices, held back on their diagonal."""
        matrices = (1 - self.holding) * self.base.to_dense()
        matrices.diagonal(dim1=-2, dim2=-1).add_(self.holding)
        return matrices

    def _push(self, vectors: Tensor) -> Tensor:
        return self.holding * vectors + (1 - self.holding) * self.base.push(vectors)

    def _pull(self, observables: Tensor) -> Tensor:
        pulled = self.base.pull(observables)
        return self.holding * observables + (1 - self.holding) * pulled

    def _select(self, index: BatchIndex) -> "Lazy":
        return Lazy(self.base[index], self.holding)


@dataclass(frozen=True, eq=False, repr=False)
class Permuted(AbstractDerived):
    """The same chain with its states in another order.

    New state i is old state `order[i]`.

    Args:
        base: The chain P.
        order: A permutation of 0..n-1.

    Raises:
        ArgumentError: The order is not a permutation.
    """

    base: AbstractTransition
    order: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        n = self.base.n_states
        order = kept_states(self.order, n, "order, a permutation,")
        order = order.to(self.base.device)
        if order.numel() != n:
            message = f"order must be a permutation of 0..{n - 1}, each state once"
            raise ArgumentError(message)
        object.__setattr__(self, "order", order)

    @classmethod
    def _of_stacked(cls, stacked: "Stacked", order: Tensor) -> AbstractTransition:
        if kept_states(order, stacked.n_states, "order").numel() != stacked.n_states:
            message = f"order must be a permutation of 0..{stacked.n_states - 1}"
            raise ArgumentError(message)
        return stacked.restrict(order)

    def to(self, target: Target) -> "Permuted":
        base = self.base.to(target)
        return self._unchecked(base=base, order=self.order.to(base.device))

    @full_precision
    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The matrices with rows and columns in the new order."""
        return self.base.to_dense()[..., self.order[:, None], self.order]

    def _push(self, vectors: Tensor) -> Tensor:
        return self.base.push(vectors[..., self.order.argsort()])[..., self.order]

    def _pull(self, observables: Tensor) -> Tensor:
        return self.base.pull(observables[..., self.order.argsort()])[..., self.order]

    def _select(self, index: BatchIndex) -> "Permuted":
        return self._unchecked(base=self.base[index], order=self.order)
