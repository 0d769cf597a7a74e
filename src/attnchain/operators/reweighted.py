"""Chains whose rows are weighed anew: on fewer states, against attention, backwards."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_distribution
from attnchain.errors import NotStochasticError, ShapeError
from attnchain.operators.base import AbstractDerived, AbstractTransition, Target
from attnchain.operators.computed_once import Derived
from attnchain.operators.indexing import BatchIndex, batch_select, kept_states
from attnchain.operators.precision import full_precision, unit_mass

if TYPE_CHECKING:
    from attnchain.operators.stacked import Stacked


class Reweighted(AbstractDerived):
    """A chain whose rows are divided by what products with its base give."""

    @property
    def row_error(self) -> float:
        """Twice the base's own, and that of one more product."""
        return self.base.row_error + super().row_error


@dataclass(frozen=True, eq=False, repr=False)
class Restricted(Reweighted):
    r"""The chain conditioned on staying in some states.

    $R_{ij} = P_{ij} / \sum_{l \in S} P_{il}$ for i, j in S: states outside S (class,
    register or text tokens) are dropped and rows renormalised. For a single
    attention head this equals `AttentionTransition.restrict`; for a mixture the two
    orders differ, since heads lose different mass.

    Args:
        base: The chain P.
        keep: The states S: boolean mask `(n,)` or indices.

    Raises:
        ArgumentError: No state is kept, or an index is out of range or there twice.
        NotStochasticError: A kept state never steps to a kept state (raised by the
            first product).

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

    def __post_init__(self) -> None:
        super().__post_init__()
        keep = kept_states(self.keep, self.base.n_states).to(self.base.device)
        object.__setattr__(self, "keep", keep)

    @classmethod
    def _of_stacked(cls, stacked: "Stacked", keep: Tensor) -> AbstractTransition:
        return stacked.restrict(keep)

    @property
    def shape(self) -> torch.Size:
        m = self.keep.numel()
        return torch.Size((*self.base.batch_shape, m, m))

    @Derived
    def row_mass(self) -> Float[Tensor, "*batch m"]:
        """Probability that a kept state steps to a kept state."""
        indicator = torch.zeros(
            self.base.n_states, dtype=self.dtype, device=self.device
        )
        indicator[self.keep] = 1
        return self._checked(self.base.pull(indicator)[..., self.keep])

    def _checked(self, mass: Tensor) -> Tensor:
        bad = ~(mass >= torch.finfo(self.dtype).tiny)
        if bool(bad.any()):
            state = int(self.keep[torch.nonzero(bad)[0, -1]])
            message = f"state {state} never steps to a kept state; drop it as well"
            raise NotStochasticError(message)
        return mass

    def to(self, target: Target) -> "Restricted":
        base = self.base.to(target)
        return self._unchecked(base=base, keep=self.keep.to(base.device))

    @full_precision
    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The kept rows and columns, renormalised."""
        inside = self.base.to_dense()[..., self.keep[:, None], self.keep]
        mass = self._checked(inside.sum(-1))[..., None]
        return inside / mass if self.tracks_gradients else inside.div_(mass)

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
        part = self._unchecked(base=self.base[index], keep=self.keep)
        Restricted.row_mass.pass_on(self, part, index)
        return part


@dataclass(frozen=True, eq=False, repr=False)
class ColumnNormalized(Reweighted):
    r"""Who looks at me: the transpose with its rows renormalised.

    $C_{ji} = P_{ij} / c_j$ with column sums $c_j = \sum_i P_{ij}$: from key j to a
    query i, drawn by how strongly i attends to j. One push from a one-hot vector is
    column select (up to scale). Neither the transpose (not a chain) nor the time
    reversal (`Reversed`).

    Args:
        base: The chain P.

    Raises:
        NotStochasticError: A state has column sum zero: nothing ever looks at it
            (raised by the first product).

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> chain = as_transition(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        >>> ColumnNormalized(chain).to_dense()
        tensor([[0.3333, 0.6667],
                [1.0000, 0.0000]])
    """

    base: AbstractTransition

    @Derived
    def column_sums(self) -> Float[Tensor, "*batch n"]:
        """How much every state is looked at by all others together."""
        ones = torch.ones(self.n_states, dtype=self.dtype, device=self.device)
        return self._checked(self.base.push(ones))

    def _checked(self, sums: Tensor) -> Tensor:
        bad = ~(sums >= torch.finfo(self.dtype).tiny)
        if bool(bad.any()):
            state = int(torch.nonzero(bad)[0, -1])
            message = (
                f"nothing ever steps to state {state}: its column cannot be "
                "normalised. Damp the chain first, or drop the state with Restricted"
            )
            raise NotStochasticError(message)
        return sums

    def to(self, target: Target) -> "ColumnNormalized":
        return ColumnNormalized(self.base.to(target))

    @full_precision
    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The transposed matrices, rows renormalised."""
        whole = self.base.to_dense()
        return (whole / self._checked(whole.sum(-2))[..., None, :]).mT

    def _push(self, vectors: Tensor) -> Tensor:
        return self.base.pull(vectors / self.column_sums[..., None, :])

    def _pull(self, observables: Tensor) -> Tensor:
        return self.base.push(observables) / self.column_sums[..., None, :]

    def _select(self, index: BatchIndex) -> "ColumnNormalized":
        part = ColumnNormalized(self.base[index])
        ColumnNormalized.column_sums.pass_on(self, part, index)
        return part


@dataclass(frozen=True, eq=False, repr=False)
class Reversed(Reweighted):
    r"""Time reversal under the stationary distribution.

    $R_{ij} = \pi_j P_{ji} / (\pi P)_i$, where $\pi P = \pi$ but for the error of the
    given pi: the stationary chain seen backwards. A chain is reversible exactly when
    it equals its reversal.

    Args:
        base: The chain P.
        stationary: Its stationary distribution pi, `(*batch, n)`, all entries > 0.
            Kept in float64, divided by its sum.

    Raises:
        ShapeError: pi has another shape.
        NotStochasticError: pi is not a distribution, has a zero, or is not stationary
            (one push changes it by more than 1e-3 in L1).
    """

    base: AbstractTransition
    stationary: Float[Tensor, "*batch n"]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distribution(self.stationary, self.base.n_states, "stationary")
        if self.stationary.shape[:-1] not in (torch.Size(), self.base.batch_shape):
            message = (
                f"stationary of shape {tuple(self.stationary.shape)} does not fit "
                f"{self.base!r}"
            )
            raise ShapeError(message)
        pi = unit_mass(self.stationary.to(self.base.device))
        object.__setattr__(self, "stationary", pi)
        residual = float((self.entered - self.pi).detach().abs().sum(-1).max())
        if residual > 1e-3:
            message = (
                "the time reversal needs the chain's own stationary distribution, but "
                f"one push changes the given one by {residual:.2g} (L1)"
            )
            raise NotStochasticError(message)

    @classmethod
    def _of_stacked(cls, stacked: "Stacked", stationary: Tensor) -> AbstractTransition:
        return stacked.each(cls, stationary)

    @property
    def pi(self) -> Float[Tensor, "*batch n"]:
        """The stationary distribution in the precision of the products."""
        return self.stationary.to(self.dtype)

    @Derived
    def entered(self) -> Float[Tensor, "*batch n"]:
        """Pi after one bounce, by which rows are divided."""
        entered = self.base.push(self.pi)
        tiny = torch.finfo(self.dtype).tiny
        if not bool((self.pi >= tiny).all() and (entered >= tiny).all()):
            message = (
                f"a stationary distribution with zeros (in {self.dtype}) has no time "
                "reversal there; drop those states with Restricted, or damp the chain"
            )
            raise NotStochasticError(message)
        return entered

    def to(self, target: Target) -> "Reversed":
        base = self.base.to(target)
        return self._unchecked(base=base, stationary=self.stationary.to(base.device))

    @full_precision
    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The transposed matrices, weighted by pi."""
        backwards = self.base.to_dense().mT * self.pi[..., None, :]
        return backwards / self.entered[..., None]

    def _push(self, vectors: Tensor) -> Tensor:
        divided = vectors / self.entered[..., None, :]
        return self.pi[..., None, :] * self.base.pull(divided)

    def _pull(self, observables: Tensor) -> Tensor:
        pushed = self.base.push(self.pi[..., None, :] * observables)
        return pushed / self.entered[..., None, :]

    def _select(self, index: BatchIndex) -> "Reversed":
        pi = self.stationary.expand(*self.batch_shape, self.n_states)
        pi = batch_select(pi, index, 1)
        part = self._unchecked(base=self.base[index], stationary=pi)
        Reversed.entered.pass_on(self, part, index)
        return part
