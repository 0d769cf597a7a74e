"""Leading eigenvalues of a chain and the slow observables that belong to them."""

# pyright: reportUnknownMemberType=false

import math
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from attnchain.checks import check_count, check_positive
from attnchain.errors import ConvergenceError
from attnchain.markov.batches import fewest_states, for_each_chain
from attnchain.markov.results import Spectrum, stacked
from attnchain.markov.solvers.krylov import InvariantSubspace, leading_subspace
from attnchain.markov.solvers.schur import shared_errors
from attnchain.operators import (
    AbstractTransition,
    Damped,
    DenseTransition,
    check_transition,
    stored,
)

SINGLE_LIMIT = 1e-6
"""Residuals below this need products in double precision."""


def spectrum(
    transition: AbstractTransition,
    k: int,
    *,
    tolerance: float = 1e-4,
    max_products: int = 4_000,
) -> Spectrum:
    r"""The k eigenvalues of largest modulus and their right invariant subspace.

    $P X = X T$ with X orthonormal, its first column constant (the eigenvalue 1), and
    T upper triangular but for 2 x 2 blocks of complex pairs (ordered real Schur
    form). Attention is not reversible, so eigenvectors may be complex or nearly
    parallel; the Schur basis is real and well conditioned, and its leading columns
    span the slow observables of the chain.

    Args:
        transition: One chain or a batch.
        k: Number of eigenvalues, counting the 1; at most n. Where the k-th and next
            are a complex pair, the pair's first is the last one returned.
        tolerance: Largest residual norm of a Schur vector.
        max_products: Single-vector products to spend on each chain.

    Returns:
        `Spectrum`, in the transition's dtype and on its device.

    Raises:
        ShapeError: k outside 1..n, or the tolerance not positive.
        ConvergenceError: The residuals stayed above the tolerance; carries the
            subspace reached.

    Cost:
        Blocks of 8 vectors, typically 6 to 20 of them; memory O(130 n) beside P.

    Sources:
        Stewart, A Krylov-Schur algorithm for large eigenproblems, SIAM J. Matrix
        Anal. Appl. 2001. Ours adds blocks and the known constant vector.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).double())
        >>> spectrum(two, 2).eigenvalues.real
        tensor([1.0000, 0.4000], dtype=torch.float64)
    """
    check_transition(transition)
    n = fewest_states(transition)
    check_count(k, "k", low=1, high=n, meaning="the number of states")
    check_positive(tolerance, "tolerance")
    check_positive(max_products, "max_products")
    with torch.no_grad():
        parts = for_each_chain(
            partial(
                _spectrum_of_chain, k=k, tolerance=tolerance, max_products=max_products
            ),
            transition,
        )
    return stacked(parts, transition)


def _spectrum_of_chain(
    chain: AbstractTransition, k: int, tolerance: float, max_products: int
) -> Spectrum:
    if isinstance(chain, Damped):
        return _damped_spectrum(chain, k, tolerance, max_products)
    if k == 1:
        return _only_the_one(chain)
    working, rounding = worked_with(chain, tolerance)
    found = leading_subspace(working, k - 1, tolerance, max_products)
    values = inside_the_circle(found.pairs.values)
    errors = np.maximum(
        estimated_errors(working, found, rounding), abs(found.pairs.values) - 1
    )
    residuals = np.concatenate([[0.0], found.residuals])[:k]
    constant = torch.full((1, chain.n_states), chain.n_states**-0.5)
    real: dict[str, Any] = {"dtype": chain.dtype, "device": chain.device}
    result = Spectrum(
        torch.from_numpy(np.concatenate([[1.0], values])[:k]).to(chain.device),
        torch.cat([constant.to(**real), found.basis.to(**real)])[:k].T.contiguous(),
        torch.as_tensor(residuals, **real),
        torch.as_tensor(np.concatenate([[0.0], errors])[:k], **real),
        torch.tensor(found.products, device=chain.device),
    )
    if residuals.max() > tolerance:
        message = (
            f"the leading {k} eigenvalues reached a residual of {residuals.max():.2g} "
            f"after {found.products} products, not {tolerance:.2g}; raise max_products "
            "or the tolerance"
        )
        raise ConvergenceError(message, result)
    return result


def _only_the_one(chain: AbstractTransition) -> Spectrum:
    n, device = chain.n_states, chain.device
    zero = torch.zeros(1, dtype=chain.dtype, device=device)
    return Spectrum(
        (1 + zero).to(torch.complex128),
        torch.full((n, 1), n**-0.5, dtype=chain.dtype, device=device),
        zero,
        zero,
        torch.zeros((), dtype=torch.int64, device=device),
    )


def _damped_spectrum(
    chain: Damped, k: int, tolerance: float, max_products: int
) -> Spectrum:
    """Damping scales every eigenvalue but the 1, and keeps the right subspace."""
    base = _spectrum_of_chain(chain.base, k, tolerance, max_products)
    factors = torch.full((k,), chain.damping, dtype=torch.float64).to(chain.device)
    factors[0] = 1
    return replace(
        base,
        eigenvalues=base.eigenvalues * factors,
        error_estimate=base.error_estimate * factors.to(chain.dtype),
    )


def worked_with(
    chain: AbstractTransition, tolerance: float
) -> tuple[AbstractTransition, float]:
    """The chain in a precision that allows the tolerance, stored where it fits.

    Rows of a stored matrix are divided by their sums. Also the relative rounding error
    of its rows.
    """
    if chain.dtype != torch.float64:
        rounding = typical_row_error(chain)
        if tolerance >= SINGLE_LIMIT and rounding <= tolerance / 2:
            return stored_evenly(chain), rounding
        chain = chain.to(torch.float64)
    return stored_evenly(chain), typical_row_error(chain)


def stored_evenly(chain: AbstractTransition) -> AbstractTransition:
    """The chain stored where it fits, rows that sum to one but nearly divided."""
    working = stored(chain)
    if not isinstance(working, DenseTransition):
        return working
    sums = working.matrix.sum(-1, keepdim=True)
    if bool((sums - 1).abs().max() <= 8 * torch.finfo(sums.dtype).eps):
        return working
    return DenseTransition.trusted(working.matrix / sums)


def typical_row_error(chain: AbstractTransition) -> float:
    """What rounding makes of the rows, relatively: a walk of its bound's many steps."""
    return chain.row_error / math.sqrt(min(chain.n_states, 1_024))


def estimated_errors(
    chain: AbstractTransition, found: InvariantSubspace, rounding: float
) -> np.ndarray:
    r"""First-order errors: (residual + rounding) times condition, at most 2.

    For a unit eigenvector x, rows wrong by the fraction $\epsilon$ change P x by
    $\epsilon \, \| P |x| \|$ at most.
    """
    pairs = found.pairs
    basis = found.basis.to(chain.dtype)
    vectors = torch.from_numpy(pairs.vectors.T.copy()).to(basis.device)
    parts = [part.to(basis) @ basis for part in (vectors.real, vectors.imag)]
    blurred = cast("Tensor", chain.pull(torch.hypot(*parts)).double().norm(dim=-1))
    errors = found.errors + rounding * blurred.cpu().numpy() * found.conditions
    shared = shared_errors(pairs.values, errors, found.conditions, found.others)
    return np.minimum(shared, 2.0)


def inside_the_circle(values: np.ndarray) -> np.ndarray:
    """No eigenvalue of a chain is larger than 1; rounding may have made one so."""
    return values / np.maximum(abs(values), 1)
