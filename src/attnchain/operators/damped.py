"""Damping: follow the chain, or jump to a state drawn from a personalization."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_distribution, check_fraction
from attnchain.errors import ShapeError
from attnchain.operators.base import AbstractDerived, AbstractTransition, Target
from attnchain.operators.indexing import BatchIndex, batch_select
from attnchain.operators.precision import full_precision, unit_mass

if TYPE_CHECKING:
    from attnchain.operators.stacked import Stacked


@dataclass(frozen=True, eq=False, repr=False)
class Damped(AbstractDerived):
    r"""The chain of PageRank: $T = \alpha P + (1 - \alpha)\, \mathbf 1 v^\top$.

    Rows keep summing to one, for any distribution v; the rank-one part is never
    stored. Its eigenvalues are 1 and $\alpha \lambda_k(P)$, and its stationary
    distribution is unique.

    Args:
        base: The chain P.
        damping: Probability alpha of following P, in (0, 1].
        personalization: The distribution v jumped to, `(n,)` or `(*batch, n)`;
            uniform by default. Kept in float64, divided by its sum.

    Raises:
        ArgumentError: Damping outside (0, 1], or what is no transition or tensor.
        ShapeError: A personalization of another shape.
        NotStochasticError: The personalization is not a distribution.

    Sources:
        Brin and Page, The anatomy of a large-scale hypertextual web search engine,
        1998. The released code of arXiv 2507.17657 jumps by the outer product of v
        with itself, whose rows do not sum to one; this is the textbook form.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> Damped(as_transition(torch.eye(2)), 0.5).to_dense()
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """

    base: AbstractTransition
    damping: float = 0.99
    personalization: Float[Tensor, "*batch n"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.damping, "damping")
        v = self.personalization
        if v is not None:
            check_distribution(v, self.base.n_states, "personalization")
            if v.shape[:-1] not in (torch.Size(), self.base.batch_shape):
                message = (
                    f"personalization must be (n,) or {(*self.base.batch_shape, 'n')}, "
                    f"but has shape {tuple(v.shape)}"
                )
                raise ShapeError(message)
            object.__setattr__(
                self, "personalization", unit_mass(v.to(self.base.device))
            )

    @classmethod
    def _of_stacked(
        cls,
        stacked: "Stacked",
        damping: float = 0.99,
        personalization: Float[Tensor, "*batch n"] | None = None,
    ) -> AbstractTransition:
        def of_member(member: AbstractTransition, *v: Tensor) -> AbstractTransition:
            return cls(member, damping, *v)

        return stacked.each(of_member, personalization)

    @property
    def jump(self) -> Float[Tensor, "*batch n"]:
        """The distribution jumped to, uniform where none was given."""
        if self.personalization is not None:
            return self.personalization.to(self.base.dtype)
        n = self.base.n_states
        return torch.full((n,), 1 / n, dtype=self.base.dtype, device=self.base.device)

    def to(self, target: Target) -> "Damped":
        base, v = self.base.to(target), self.personalization
        return self._over(base, None if v is None else v.to(base.device))

    @full_precision
    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The damped matrices, teleport included."""
        matrices = self.damping * self.base.to_dense()
        matrices += (1 - self.damping) * self.jump[..., None, :]
        return matrices

    def _push(self, vectors: Tensor) -> Tensor:
        mass = vectors.sum(-1, keepdim=True)
        jumped = mass * self.jump[..., None, :]
        return self.damping * self.base.push(vectors) + (1 - self.damping) * jumped

    def _pull(self, observables: Tensor) -> Tensor:
        mean = (observables * self.jump[..., None, :]).sum(-1, keepdim=True)
        return self.damping * self.base.pull(observables) + (1 - self.damping) * mean

    def _select(self, index: BatchIndex) -> "Damped":
        v = self.personalization
        if v is not None:
            v = batch_select(v.expand(*self.batch_shape, self.n_states), index, 1)
        return self._over(self.base[index], v)

    def _over(self, base: AbstractTransition, v: Tensor | None) -> "Damped":
        return self._unchecked(base=base, damping=self.damping, personalization=v)
