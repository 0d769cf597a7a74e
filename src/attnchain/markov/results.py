"""What solvers return: frozen values that carry their own accuracy and cost."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, TypeVar

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from attnchain.operators import AbstractTransition

Result = TypeVar("Result", bound=Any)


class Outcome(Enum):
    """How a solver ended."""

    CONVERGED = "reached the tolerance"
    ITERATION_LIMIT = "stopped at max_iterations before the tolerance"
    STALLED = "stopped improving before the tolerance"


@dataclass(frozen=True, eq=False)
class Stationary:
    """A stationary distribution and how well it is known.

    Attributes:
        distribution: pi, `(*batch, n)`, float64; entries >= 0, sum 1.
        error_bound: Certified bound on the L1 distance to the exact distribution,
            `(*batch,)`; infinite, and not converged, where none was found.
        residual: L1 change of the distribution under one more bounce, `(*batch,)`.
        iterations: Solver iterations of each chain.
        products: Products with P or its transpose of each chain.
        outcome: The worst outcome over the batch.
    """

    distribution: Float[Tensor, "*batch n"]
    error_bound: Float[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]
    iterations: Int[Tensor, "*batch"]
    products: Int[Tensor, "*batch"]
    outcome: Outcome


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Leading eigenvalues and the right invariant subspace that belongs to them.

    Attributes:
        eigenvalues: The k of largest modulus, first the 1, `(*batch, k)`.
        basis: Orthonormal real basis of the right invariant subspace, one vector in
            each column, first the constant one, `(*batch, n, k)`. The leading
            columns span the leading subspaces (real Schur vectors); a complex pair
            takes two columns.
        residuals: Norm of P X - X T for each column, `(*batch, k)`.
        error_estimate: Residual and rounding of the rows, times the eigenvalue's
            condition number, `(*batch, k)`: a first-order estimate of each
            eigenvalue's error, not a bound.
        products: Products with P, counted in single vectors, `(*batch,)`.
    """

    eigenvalues: Complex[Tensor, "*batch k"]
    basis: Float[Tensor, "*batch n k"]
    residuals: Float[Tensor, "*batch k"]
    error_estimate: Float[Tensor, "*batch k"]
    products: Int[Tensor, "*batch"]

    @property
    def shape(self) -> torch.Size:
        """Shape of the eigenvalues, `(*batch, k)`."""
        return self.eigenvalues.shape


@dataclass(frozen=True, eq=False)
class LeadingSubspaces:
    """The slowest modes beside the stationary one, from both sides, all in float64.

    Both bases are real Schur vectors: where the k-th and next eigenvalue are a complex
    pair, or of one modulus, their last column belongs to a space it does not span.

    Attributes:
        eigenvalues: The k of largest modulus beside the 1, `(*batch, k)`; of a complex
            pair the one with positive imaginary part first.
        right: Orthonormal basis of the right invariant subspace, constants left out,
            one vector in each column, `(*batch, n, k)`.
        left: Likewise of the left one; every column sums to zero.
        backward_error: Certified: each eigenvalue is an exact one of some matrix
            (itself no chain, in general) that differs from P by at most this in the
            spectral norm, rounding included, `(*batch, k)`.
        condition: How many times more an eigenvalue moves than the matrix, to first
            order: 1 over the cosine between its left and right vector, `(*batch, k)`.
        error_estimate: The product of the two, `(*batch, k)`.
        products: Products with P, counted in single vectors, `(*batch,)`.
    """

    eigenvalues: Complex[Tensor, "*batch k"]
    right: Float[Tensor, "*batch n k"]
    left: Float[Tensor, "*batch n k"]
    backward_error: Float[Tensor, "*batch k"]
    condition: Float[Tensor, "*batch k"]
    error_estimate: Float[Tensor, "*batch k"]
    products: Int[Tensor, "*batch"]


@dataclass(frozen=True, eq=False)
class SecondEigenvalue:
    """The eigenvalue of second largest modulus.

    Attributes:
        modulus: abs(lambda_2), `(*batch,)`.
        eigenvalue: lambda_2 itself, complex in general; of a complex pair the one
            with positive imaginary part.
        error_estimate: First-order estimate of the error of `eigenvalue`: residual
            and rounding of the rows, times its condition number.
        products: Products with P, counted in single vectors.
    """

    modulus: Float[Tensor, "*batch"]
    eigenvalue: Complex[Tensor, "*batch"]
    error_estimate: Float[Tensor, "*batch"]
    products: Int[Tensor, "*batch"]


@dataclass(frozen=True, eq=False)
class MetastableSets:
    """A chain seen as a few sets it rarely leaves.

    Attributes:
        memberships: How much each state belongs to each set, `(n, m)`; >= 0, rows
            sum to one (0 at padding).
        labels: The set of largest membership of each state, `(n,)`; -1 at padding.
        coarse: Transition matrix between the fuzzy sets, `(m, m)`; rows sum to one.
        prevalence: Stationary mass of each set, `(m,)`.
        retention: Probability of staying in the crisp set for one bounce, started
            from the stationary distribution inside it, `(m,)`.
        crispness: How little the sets overlap: 1 where no state belongs to two.
        eigenvalues: The m + 1 leading eigenvalues the sets were chosen by; empty for
            sets that were given.
    """

    memberships: Float[Tensor, "n m"]
    labels: Int[Tensor, " n"]
    coarse: Float[Tensor, "m m"]
    prevalence: Float[Tensor, " m"]
    retention: Float[Tensor, " m"]
    crispness: Float[Tensor, ""]
    eigenvalues: Complex[Tensor, " k"]


def stacked(parts: Sequence[Result], transition: AbstractTransition) -> Result:
    """The results of single chains as one result of their batch, field by field.

    Matrices have a row for each state.
    """
    whole, batch = {}, transition.batch_shape
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if values[0].ndim == 2:
            columns = transition.together([value.mT for value in values])
            whole[field.name] = columns.mT.contiguous()
        else:
            whole[field.name] = torch.stack(values).view((*batch, *values[0].shape))
    return type(parts[0])(**whole)
