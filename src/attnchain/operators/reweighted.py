"""Chains whose rows are weighed anew: on fewer or offered states, or backwards."""

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


def _masses(given: Tensor, base: AbstractTransition, name: str) -> Tensor:
    """A distribution for all chains or one for each, in float64."""
    check_distribution(given, base.n_states, name)
    if given.shape[:-1] not in (torch.Size(), base.batch_shape):
        message = f"{name} of shape {tuple(given.shape)} does not fit {base!r}"
        raise ShapeError(message)
    return unit_mass(given.to(base.device))


def _vanishing(masses: Tensor) -> int | None:
    """A state whose mass is zero in its precision, or none."""
    bad = ~(masses >= torch.finfo(masses.dtype).tiny)
    return int(torch.nonzero(bad)[0, -1]) if bool(bad.any()) else None


def _of_part(values: Tensor, chain: AbstractTransition, index: BatchIndex) -> Tensor:
    """Values of the states of all chains, or each, as those of some of them."""
    whole = values.expand(*chain.batch_shape, chain.n_states)
    return batch_select(whole, index, 1)


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
        if (place := _vanishing(mass)) is not None:
            state = int(self.keep[place])
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
class Conditioned(Reweighted):
    r"""The chain whose steps count by how often each state is offered.

    $R_{ij} = m_j P_{ij} / \sum_l m_l P_{il}$: P is the preference for a state, m the
    share of the offer it has. States with m = 0 are never entered.

    Args:
        base: The chain P.
        frequencies: m, `(n,)` or `(*batch, n)`: a distribution. Kept in float64,
            divided by its sum.

    Raises:
        ShapeError: m has another shape.
        NotStochasticError: m is not a distribution, or a state never steps to any
            state that is offered (raised by the first product).

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> chain = as_transition(torch.tensor([[0.5, 0.3, 0.2]]).expand(3, 3))
        >>> Conditioned(chain, torch.tensor([0.0, 0.5, 0.5])).to_dense()[0]
        tensor([0.0000, 0.6000, 0.4000])
    """

    base: AbstractTransition
    frequencies: Float[Tensor, "*batch n"]

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = _masses(self.frequencies, self.base, "frequencies")
        object.__setattr__(self, "frequencies", shares)

    @classmethod
    def _of_stacked(cls, stacked: "Stacked", frequencies: Tensor) -> AbstractTransition:
        return stacked.each(cls, frequencies)

    @property
    def shares(self) -> Float[Tensor, "*batch n"]:
        """The frequencies in the precision of the products."""
        return self.frequencies.to(self.dtype)

    @Derived
    def row_mass(self) -> Float[Tensor, "*batch n"]:
        """What every row is divided by."""
        return self._checked(self.base.pull(self.shares))

    def _checked(self, mass: Tensor) -> Tensor:
        if (state := _vanishing(mass)) is not None:
            message = (
                f"state {state} never steps to a state whose frequency is above zero "
                f"(in {self.dtype}); give such a state some of it, or drop this one "
                "with Restricted first"
            )
            raise NotStochasticError(message)
        return mass

    def to(self, target: Target) -> "Conditioned":
        base = self.base.to(target)
        return self._unchecked(base=base, frequencies=self.frequencies.to(base.device))

    @full_precision
    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The matrices with columns weighed and rows renormalised."""
        weighed = self.base.to_dense() * self.shares[..., None, :]
        return weighed / self._checked(weighed.sum(-1))[..., None]

    def _push(self, vectors: Tensor) -> Tensor:
        pushed = self.base.push(vectors / self.row_mass[..., None, :])
        return pushed * self.shares[..., None, :]

    def _pull(self, observables: Tensor) -> Tensor:
        pulled = self.base.pull(observables * self.shares[..., None, :])
        return pulled / self.row_mass[..., None, :]

    def _select(self, index: BatchIndex) -> "Conditioned":
        shares = _of_part(self.frequencies, self, index)
        part = self._unchecked(base=self.base[index], frequencies=shares)
        Conditioned.row_mass.pass_on(self, part, index)
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
        if (state := _vanishing(sums)) is not None:
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
        pi = _masses(self.stationary, self.base, "stationary")
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
        pi = _of_part(self.stationary, self, index)
        part = self._unchecked(base=self.base[index], stationary=pi)
        Reversed.entered.pass_on(self, part, index)
        return part
