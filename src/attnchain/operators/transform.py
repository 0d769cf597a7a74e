"""Chains derived from one chain: on fewer states, backwards, slower, reordered."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_distribution, check_fraction
from attnchain.errors import NotStochasticError, ShapeError
from attnchain.operators.base import (
    AbstractDerived,
    AbstractTransition,
    BatchIndex,
    Target,
    batch_select,
    kept_states,
)


@dataclass(frozen=True, eq=False, repr=False)
class Restricted(AbstractDerived):
    r"""The chain conditioned on staying in some states.

    $R_{ij} = P_{ij} / \sum_{l \in S} P_{il}$ for i, j in S: states outside S (class,
    register or text tokens) are dropped and rows renormalised. For a single
    attention head this equals `AttentionTransition.restrict`; for a mixture the two
    orders differ, since heads lose different mass.

    Args:
        base: The chain P.
        keep: The states S: boolean mask `(n,)` or indices.

    Raises:
        ShapeError: No state is kept, or an index is out of range.
        NotStochasticError: A kept state never steps to a kept state.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> chain = as_transition(torch.tensor([[0.5, 0.3, 0.2]]).expand(3, 3))
        >>> Restricted(chain, torch.tensor([1, 2])).to_dense()
        tensor([[0.6000, 0.4000],
                [0.6000, 0.4000]])
    """

    base: AbstractTransition
    keep: Tensor
    row_mass: Tensor = field(init=False)

    def __post_init__(self) -> None:
        n, device = self.base.n_states, self.base.device
        keep = kept_states(self.keep, n).to(device)
        object.__setattr__(self, "keep", keep)
        indicator = torch.zeros(n, dtype=self.base.dtype, device=device)
        indicator[keep] = 1
        mass = self.base.pull(indicator)[..., keep]
        if bool((mass <= 0).any()):
            state = int(keep[torch.nonzero(mass <= 0)[0, -1]])
            message = f"state {state} never steps to a kept state; drop it as well"
            raise NotStochasticError(message)
        object.__setattr__(self, "row_mass", mass)

    @property
    def shape(self) -> torch.Size:
        m = self.keep.numel()
        return torch.Size((*self.base.batch_shape, m, m))

    def to(self, target: Target) -> "Restricted":
        return Restricted(self.base.to(target), self.keep)

    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The kept rows and columns, renormalised."""
        inside = self.base.to_dense()[..., self.keep, :][..., self.keep]
        return inside / self.row_mass[..., None]

    def _push(self, vectors: Tensor) -> Tensor:
        full = self._embed(vectors / self.row_mass[..., None, :])
        return self.base.push(full)[..., self.keep]

    def _pull(self, observables: Tensor) -> Tensor:
        pulled = self.base.pull(self._embed(observables))[..., self.keep]
        return pulled / self.row_mass[..., None, :]

    def _embed(self, vectors: Tensor) -> Tensor:
        full = vectors.new_zeros(*vectors.shape[:-1], self.base.n_states)
        return full.index_copy(-1, self.keep, vectors)

    def _select(self, index: BatchIndex) -> "Restricted":
        return Restricted(self.base[index], self.keep)


@dataclass(frozen=True, eq=False, repr=False)
class ColumnNormalized(AbstractDerived):
    r"""Who looks at me: the transpose with its rows renormalised.

    $C_{ji} = P_{ij} / c_j$ with column sums $c_j = \sum_i P_{ij}$: from key j to a
    query i, drawn by how strongly i attends to j. One push from a one-hot vector is
    column select (up to scale). Neither the transpose (not a chain) nor the time
    reversal (`Reversed`).

    Args:
        base: The chain P.

    Raises:
        NotStochasticError: A state has column sum zero: nothing ever looks at it.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> chain = as_transition(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        >>> ColumnNormalized(chain).to_dense()
        tensor([[0.3333, 0.6667],
                [1.0000, 0.0000]])
    """

    base: AbstractTransition
    column_sums: Float[Tensor, "*batch n"] = field(init=False)

    def __post_init__(self) -> None:
        ones = torch.ones(
            self.base.n_states, dtype=self.base.dtype, device=self.base.device
        )
        sums = self.base.push(ones)
        if bool((sums <= 0).any()):
            state = torch.nonzero(sums <= 0)[0].tolist()
            message = (
                f"nothing ever steps to state {state[-1]}: its column cannot be "
                "normalised. Damp the chain first, or drop the state with Restricted"
            )
            raise NotStochasticError(message)
        object.__setattr__(self, "column_sums", sums)

    def to(self, target: Target) -> "ColumnNormalized":
        return ColumnNormalized(self.base.to(target))

    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The transposed matrices, rows renormalised."""
        return self.base.to_dense().mT / self.column_sums[..., None]

    def _push(self, vectors: Tensor) -> Tensor:
        return self.base.pull(vectors / self.column_sums[..., None, :])

    def _pull(self, observables: Tensor) -> Tensor:
        return self.base.push(observables) / self.column_sums[..., None, :]

    def _select(self, index: BatchIndex) -> "ColumnNormalized":
        return ColumnNormalized(self.base[index])


@dataclass(frozen=True, eq=False, repr=False)
class Reversed(AbstractDerived):
    r"""Time reversal under the stationary distribution.

    $R_{ij} = \pi_j P_{ji} / \pi_i$: the stationary chain seen backwards. A chain is
    reversible exactly when it equals its reversal.

    Args:
        base: The chain P.
        stationary: Its stationary distribution pi, `(*batch, n)`, all entries > 0.

    Raises:
        ShapeError: pi has another shape.
        NotStochasticError: pi is not a distribution, has a zero, or is not stationary
            (one push changes it by more than 1e-3 in L1).
    """

    base: AbstractTransition
    stationary: Float[Tensor, "*batch n"]

    def __post_init__(self) -> None:
        check_distribution(self.stationary, self.base.n_states, "stationary")
        if self.stationary.shape[:-1] not in (torch.Size(), self.base.batch_shape):
            message = (
                f"stationary of shape {tuple(self.stationary.shape)} does not fit "
                f"{self.base!r}"
            )
            raise ShapeError(message)
        if bool((self.stationary == 0).any()):
            message = (
                "a stationary distribution with zeros has no time reversal there; "
                "drop those states with Restricted, or damp the chain"
            )
            raise NotStochasticError(message)
        pi = self.stationary.to(dtype=self.base.dtype, device=self.base.device)
        residual = float((self.base.push(pi) - pi).abs().sum(-1).max())
        if residual > 1e-3:
            message = (
                "the time reversal needs the chain's own stationary distribution, but "
                f"one push changes the given one by {residual:.2g} (L1)"
            )
            raise NotStochasticError(message)
        object.__setattr__(self, "stationary", pi)

    def to(self, target: Target) -> "Reversed":
        return Reversed(self.base.to(target), self.stationary.to(target))

    def _push(self, vectors: Tensor) -> Tensor:
        pi = self.stationary[..., None, :]
        return pi * self.base.pull(vectors / pi)

    def _pull(self, observables: Tensor) -> Tensor:
        pi = self.stationary[..., None, :]
        return self.base.push(pi * observables) / pi

    def _select(self, index: BatchIndex) -> "Reversed":
        pi = self.stationary.expand(*self.batch_shape, self.n_states)
        return Reversed(self.base[index], batch_select(pi, index, 1))


@dataclass(frozen=True, eq=False, repr=False)
class Lazy(AbstractDerived):
    r"""The chain that stays where it is with some probability: $h I + (1 - h) P$.

    Same stationary distribution, and never periodic for h > 0.

    Args:
        base: The chain P.
        holding: Probability h of staying, in [0, 1].

    Raises:
        ShapeError: Holding outside [0, 1].
    """

    base: AbstractTransition
    holding: float = 0.5

    def __post_init__(self) -> None:
        check_fraction(self.holding, "holding", zero=True)

    def to(self, target: Target) -> "Lazy":
        return Lazy(self.base.to(target), self.holding)

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
        ShapeError: The order is not a permutation.
    """

    base: AbstractTransition
    order: Tensor

    def __post_init__(self) -> None:
        order = torch.as_tensor(self.order, device=self.base.device)
        expected = torch.arange(self.base.n_states, device=self.base.device)
        if not torch.equal(order.sort().values, expected):
            message = f"order must be a permutation of 0..{self.base.n_states - 1}"
            raise ShapeError(message)
        object.__setattr__(self, "order", order)

    def to(self, target: Target) -> "Permuted":
        order = self.order if isinstance(target, torch.dtype) else self.order.to(target)
        return Permuted(self.base.to(target), order)

    def _push(self, vectors: Tensor) -> Tensor:
        return self.base.push(vectors[..., self.order.argsort()])[..., self.order]

    def _pull(self, observables: Tensor) -> Tensor:
        return self.base.pull(observables[..., self.order.argsort()])[..., self.order]

    def _select(self, index: BatchIndex) -> "Permuted":
        return Permuted(self.base[index], self.order)
