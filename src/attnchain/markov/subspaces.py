r"""Leading invariant subspaces from both sides, with a certificate for eigenvalues.

Eigenvalues are those of the oblique projection $(Y X)^{-1} Y P X$, whose error is of
second order. With unit vectors x, y of one eigenvalue theta and the residuals
$r = P x - \theta x$ (constants left out), $s = y P - \theta y$, both measured in
float64 on the numbers as given, theta is an **exact** eigenvalue of some matrix
(complex for a complex theta) within $\max(\|r\|, \|s\|)$ of P in the spectral norm,
once rounding and what rows lack of one are added; to first order this moves it by
that much times its condition number $1 / |y x|$. That no eigenvalue of larger modulus
was missed is not certified.

Sources: Kahan, Parlett and Jiang, Residual bounds on approximate eigensystems of
nonnormal matrices, SIAM J. Numer. Anal. 1982, for the certificate.
"""

# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

import math
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from attnchain.checks import check_count, check_positive
from attnchain.errors import NumericalWarning, ShapeError
from attnchain.markov.batches import fewest_states, for_each_chain
from attnchain.markov.results import LeadingSubspaces, stacked
from attnchain.markov.solvers.krylov import DENSE_LIMIT, leading_subspace
from attnchain.markov.solvers.mean_zero import factorised
from attnchain.markov.solvers.schur import ordered_schur
from attnchain.markov.spectral import SINGLE_LIMIT, inside_the_circle, stored_evenly
from attnchain.operators import AbstractTransition, check_transition

_ATTEMPTS = 5
"""Ever smaller residuals tried where eigenvalues are worse conditioned than hoped."""


def leading_subspaces(
    transition: AbstractTransition,
    k: int = 1,
    *,
    tolerance: float = 1e-4,
    max_products: int = 4_000,
) -> LeadingSubspaces:
    """The k slowest modes beside the 1 from both sides: $Y P X$ with a certificate.

    Right vectors are slow observables, left vectors slow redistributions of
    probability (they sum to zero). Every eigenvalue is an exact one of some matrix
    within `backward_error` of P; how that is certified is told at the top of this
    module. That none of larger modulus was missed is not certified.

    Args:
        transition: One chain or a batch.
        k: Number of eigenvalues beside the 1, less than n.
        tolerance: Largest `error_estimate` to reach.
        max_products: Single-vector products to spend on each side of each chain;
            the last attempt may exceed them by as much again.

    Returns:
        `LeadingSubspaces`, in float64.

    Warns:
        NumericalWarning: An eigenvalue is so ill-conditioned that its estimated error
            stays above the tolerance.

    Raises:
        ArgumentError: k outside 1..n - 1, or the tolerance not positive.
        ShapeError: A chain of one state, or a batch without one.

    Cost:
        Twice that of `spectrum`, and 2 k + 2 products in float64.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.75, 0.25], [0.5, 0.5]]).double())
        >>> found = leading_subspaces(two)
        >>> found.eigenvalues.real
        tensor([0.2500], dtype=torch.float64)
        >>> bool(found.backward_error < 1e-12)
        True
    """
    _check_wanted(transition, k, tolerance, max_products)
    with torch.no_grad():
        parts = for_each_chain(
            partial(_of_chain, k=k, tolerance=tolerance, max_products=max_products),
            transition,
        )
    result = stacked(parts, transition)
    worst = _worst(result)
    if worst > tolerance:
        message = (
            f"an eigenvalue is known to {worst:.1g} only, not {tolerance:.1g}: it is "
            "ill-conditioned or max_products were spent (see backward_error, condition)"
        )
        warnings.warn(message, NumericalWarning, stacklevel=2)
    return result


def _check_wanted(
    transition: AbstractTransition, k: int, tolerance: float, max_products: int
) -> None:
    check_transition(transition)
    n = fewest_states(transition)
    if n == 1:
        raise ShapeError("a chain of one state has no eigenvalue beside the 1")
    check_count(k, "k", low=1, high=n - 1, meaning="one less than the states")
    check_positive(tolerance, "tolerance")
    check_positive(max_products, "max_products")


def _of_chain(
    chain: AbstractTransition, k: int, tolerance: float, max_products: int
) -> LeadingSubspaces:
    wide = chain.to(torch.float64)
    exact, rounding = stored_evenly(wide), wide.row_error
    working = exact if tolerance < SINGLE_LIMIT else stored_evenly(chain)
    goal, small = tolerance / 4, chain.n_states <= DENSE_LIMIT
    tried: list[LeadingSubspaces] = []
    for attempt in range(2 if small else _ATTEMPTS):
        # Eigenvalues of one modulus may come in another order on the other side.
        wanted = min(k + attempt, chain.n_states - 1)
        sides = _both_sides(working, wanted, goal, max_products)
        tried.append(_certified(exact, sides, k, rounding))
        worst, spent = _worst(tried[-1]), _spent(tried)
        hard = small and sides.products >= 2 * chain.n_states
        if worst <= tolerance or hard or spent >= 2 * max_products:
            break
        goal, working = max(1e-13, 0.5 * goal * tolerance / worst), exact
    if small and _worst(tried[-1]) > tolerance:
        tried.append(_certified(exact, _factorised_sides(exact, k), k, rounding))
    best = min(tried, key=lambda one: (_worst(one), float(one.backward_error.max())))
    return replace(best, products=best.products.new_tensor(_spent(tried)))


def _worst(found: LeadingSubspaces) -> float:
    return float(found.error_estimate.max())


def _spent(tried: list[LeadingSubspaces]) -> int:
    return sum(int(found.products) for found in tried)


@dataclass(frozen=True, eq=False)
class _Sides:
    """Right and left subspace of the same eigenvalues, in orthonormal rows."""

    right: Tensor
    left: Tensor
    products: int


def _both_sides(
    chain: AbstractTransition, k: int, goal: float, max_products: int
) -> _Sides:
    """At least k dimensions, no pair split."""
    right = leading_subspace(chain, k, goal, max_products, "pull")
    left = leading_subspace(chain, len(right.basis), goal, max_products, "push")
    size = min(len(right.basis), len(left.basis))
    return _Sides(right.basis[:size], left.basis[:size], right.products + left.products)


def _factorised_sides(exact: AbstractTransition, k: int) -> _Sides:
    """Both from one Schur form: the left one belongs to the same eigenvalues."""
    whole = factorised(exact, "pull")
    order = ordered_schur(whole.projected, k)
    size = order.closed_size(k)
    left, _ = np.linalg.qr((order.projection(size) @ order.vectors.T).T)
    inner = left.T @ whole.projected @ left
    nested = left @ ordered_schur(inner.T, size).vectors
    right = whole.lifted(order.vectors[:, :size].T)
    return _Sides(right, whole.lifted(nested.T), exact.n_states)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Eigenvalues of the oblique projection, unit eigenvectors and residual norms."""

    values: np.ndarray
    cosines: np.ndarray
    residuals: np.ndarray


def _certified(
    exact: AbstractTransition, sides: _Sides, k: int, rounding: float
) -> LeadingSubspaces:
    """The eigenvalues of both subspaces together, and what certifies them."""
    x, y = sides.right.double(), sides.left.double()
    pairs = _pairs(x, _centred(exact.pull(x)), y, _centred(exact.push(y)), k)
    ones = torch.ones(exact.n_states, dtype=torch.float64, device=exact.device)
    rows, columns = exact.pull(ones), exact.push(ones)
    norm = math.sqrt(float(rows.max()) * float(columns.max()))  # bounds that of P
    unevenness = cast("Tensor", _centred(rows).norm())
    uneven = float(unevenness) / math.sqrt(exact.n_states)
    values = inside_the_circle(pairs.values)
    backward = pairs.residuals + rounding * norm + uneven + abs(values - pairs.values)
    cosines = np.maximum(pairs.cosines, np.finfo(float).tiny)
    estimate = np.minimum(backward, 2 * cosines) / cosines  # no overflow, 2 at most
    products = sides.products + 2 * len(x) + 2

    def told(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(exact.device)

    return LeadingSubspaces(
        eigenvalues=told(values),
        right=x[:k].T.contiguous(),
        left=y[:k].T.contiguous(),
        backward_error=told(backward),
        condition=told(1 / cosines),
        error_estimate=told(estimate),
        products=torch.tensor(products, device=exact.device),
    )


def _centred(vectors: Tensor) -> Tensor:
    """Without the constant, whose eigenvalue is the 1."""
    return vectors - vectors.mean(-1, keepdim=True)


def _pairs(x: Tensor, px: Tensor, y: Tensor, yp: Tensor, k: int) -> _Pairs:
    """The k eigenvalues of largest modulus, from bases and their images in rows."""
    import scipy.linalg

    overlap = (y @ x.T).cpu().numpy()
    inverse = np.linalg.pinv(overlap)
    projected = inverse @ (y @ px.T).cpu().numpy()
    eig = cast("Any", scipy.linalg.eig)
    values, w, u = eig(projected, left=True, right=True)
    order = np.lexsort((-values.imag, -np.round(abs(values), 12)))[:k]
    values, u = values[order], u[:, order]
    w = w[:, order].conj().T @ inverse
    observable = x.T.cpu().numpy() @ u
    moved = px.T.cpu().numpy() @ u - observable * values
    redistribution = w @ y.cpu().numpy()
    shifted = w @ yp.cpu().numpy() - values[:, None] * redistribution
    tiny = np.finfo(float).tiny
    size = np.maximum(np.linalg.norm(observable, axis=0), tiny)
    mass = np.maximum(np.linalg.norm(redistribution, axis=1), tiny)
    cosines = abs((redistribution * observable.T).sum(1)) / (size * mass)
    residuals = np.maximum(
        np.linalg.norm(moved, axis=0) / size, np.linalg.norm(shifted, axis=1) / mass
    )
    return _Pairs(values, cosines, residuals)
