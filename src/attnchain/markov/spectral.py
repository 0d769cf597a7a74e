"""Eigenvalues of a chain: how fast it forgets, and what it forgets last."""

import math
import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_count, check_positive
from attnchain.errors import ConvergenceError, NumericalWarning, ShapeError
from attnchain.markov.concurrent import for_each_chain
from attnchain.markov.krylov import eigenvalues, leading_subspace
from attnchain.markov.results import SecondEigenvalue, Spectrum, stacked
from attnchain.operators import (
    AbstractTransition,
    AttentionTransition,
    Damped,
    DenseTransition,
    fits_budget,
    stored,
)

_SAFETY = 4
"""Error estimates are of first order: close eigenvalues make them too small."""
_TIGHTENINGS = 4
"""Smaller residuals tried where lambda_2 is worse conditioned than it seemed."""


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
    n = transition.n_states
    check_count(k, "k", low=1, high=n, meaning="the number of states")
    check_positive(tolerance, "tolerance")
    check_positive(max_products, "max_products")
    with torch.no_grad():
        parts = for_each_chain(
            lambda chain: _spectrum_of_chain(chain, k, tolerance, max_products),
            transition,
        )
    return stacked(parts, transition.batch_shape)


def _spectrum_of_chain(
    chain: AbstractTransition, k: int, tolerance: float, max_products: int
) -> Spectrum:
    if isinstance(chain, Damped):
        return _damped_spectrum(chain, k, tolerance, max_products)
    exact = chain.to(torch.float64) if tolerance < 1e-5 else chain
    working, n = stored(exact), chain.n_states
    constant = torch.full((1, n), 1 / math.sqrt(n), dtype=chain.dtype).to(chain.device)
    real = {"dtype": chain.dtype, "device": chain.device}
    whole = {"dtype": torch.int64, "device": chain.device}
    if k == 1:
        zero = torch.zeros(1, **real)
        one = torch.ones(1, **real).to(torch.complex128)
        products = torch.zeros((), **whole)
        return Spectrum(one, constant.T, zero, zero, products)
    found = leading_subspace(working, k - 1, tolerance, max_products)
    values = np.concatenate([[1.0], eigenvalues(found.triangular)])[:k]
    residuals = np.concatenate([[0.0], found.residuals])[:k]
    errors = residuals * np.concatenate([[1.0], found.conditions])[:k]
    errors = np.minimum(errors, 2.0)  # no two eigenvalues of a chain are further apart
    result = Spectrum(
        torch.from_numpy(values).to(chain.device),
        torch.cat([constant, found.basis.to(**real)])[:k].T.contiguous(),
        torch.as_tensor(residuals, **real),
        torch.as_tensor(errors, **real),
        torch.tensor(found.products, **whole),
    )
    if residuals.max() > tolerance:
        message = (
            f"the leading {k} eigenvalues reached a residual of {residuals.max():.2g} "
            f"after {found.products} products, not {tolerance:.2g}; raise max_products "
            "or the tolerance"
        )
        raise ConvergenceError(message, result)
    return result


def _damped_spectrum(
    chain: Damped, k: int, tolerance: float, max_products: int
) -> Spectrum:
    """Damping scales every eigenvalue but the 1, and keeps the right subspace."""
    base = _spectrum_of_chain(chain.base, k, tolerance, max_products)
    factors = torch.full((k,), chain.damping, dtype=torch.float64).to(chain.device)
    factors[0] = 1
    return Spectrum(
        base.eigenvalues * factors,
        base.basis,
        base.residuals,
        base.error_estimate,
        base.products,
    )


def second_eigenvalue(
    transition: AbstractTransition, *, tolerance: float = 1e-4
) -> SecondEigenvalue:
    r"""The eigenvalue lambda_2 of second largest modulus: how metastable a chain is.

    $|\lambda_2|$ near 1 means the chain has sets it rarely leaves; near 0 that it
    forgets its start in one bounce. It is complex in general, and found with the
    known pair (1, pi) deflated, without computing the other eigenvalues.

    Args:
        transition: One chain or a batch; undamped (damping only scales lambda_2).
        tolerance: Error estimate to reach: residual norm times condition number. The
            latter is taken inside the subspace, so the estimate may be a few times
            too small; a quarter of the tolerance is aimed at.

    Returns:
        `SecondEigenvalue`; modulus 0 for a chain of one state. A triangular (causal)
        chain is read off its diagonal.

    Warns:
        NumericalWarning: lambda_2 is so ill-conditioned that its estimated error
            stays above the tolerance.

    Raises:
        ConvergenceError: The residual stayed above the tolerance.

    Sources:
        arXiv 2507.17657 weights heads by it. The released code computes all
        eigenvalues, or a real power iteration that is wrong for complex pairs.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).double())
        >>> second_eigenvalue(two).modulus
        tensor(0.4000, dtype=torch.float64)
    """
    check_positive(tolerance, "tolerance")
    with torch.no_grad():
        parts = for_each_chain(
            lambda chain: _second_of_chain(chain, tolerance), transition
        )
    batch, device = transition.batch_shape, transition.device
    values, errors, products, known = zip(*parts, strict=True)
    if not all(known):
        warnings.warn(
            f"lambda_2 is ill-conditioned: its error is about {max(errors):.1g}, not "
            f"{tolerance:.1g} (see error_estimate)",
            NumericalWarning,
            stacklevel=2,
        )
    value = torch.tensor(values, dtype=torch.complex128, device=device).view(batch)
    error = torch.tensor(errors, dtype=transition.dtype, device=device).view(batch)
    spent = torch.tensor(products, device=device).view(batch)
    return SecondEigenvalue(value.abs().to(transition.dtype), value, error, spent)


def _second_of_chain(
    chain: AbstractTransition, tolerance: float
) -> tuple[complex, float, int, bool]:
    """Eigenvalue, error estimate, products, and whether the estimate fits."""
    if chain.n_states == 1:
        return 0j, 0.0, 0, True
    diagonal = _triangular_diagonal(chain)
    if diagonal is not None:
        rounding = chain.n_states * torch.finfo(chain.dtype).eps
        return complex(diagonal.sort().values[-2]), rounding, 1, True
    goal = tolerance / _SAFETY
    found = spectrum(chain, 2, tolerance=goal)
    products, error = int(found.products), float(found.error_estimate[1])
    for _ in range(_TIGHTENINGS):
        if error <= goal:
            break
        needed = 0.5 * float(found.residuals[1]) * goal / error
        try:
            found = spectrum(chain, 2, tolerance=max(1e-12, needed))
        except ConvergenceError as stopped:
            found = stopped.result
        products, error = products + int(found.products), float(found.error_estimate[1])
    return complex(found.eigenvalues[1]), error, products, error <= tolerance


def _triangular_diagonal(chain: AbstractTransition) -> Tensor | None:
    """The diagonal, which is the spectrum, of a chain known to be triangular."""
    if isinstance(chain, AttentionTransition) and chain.causal:
        return chain.diagonal()
    if isinstance(chain, DenseTransition):
        matrix = chain.matrix
        if bool(matrix[0, 1:].any()) and bool(matrix[-1, :-1].any()):
            return None
        if torch.equal(matrix, matrix.tril()) or torch.equal(matrix, matrix.triu()):
            return matrix.diagonal()
    return None


def spectral_gap(
    transition: AbstractTransition, *, tolerance: float = 1e-4
) -> Float[Tensor, "*batch"]:
    r"""$1 - |\lambda_2|$: the rate at which a chain forgets.

    Args:
        transition: One chain or a batch.
        tolerance: Residual norm to reach for lambda_2.

    Returns:
        One number for each chain, in [0, 1].

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).double())
        >>> spectral_gap(two)
        tensor(0.6000, dtype=torch.float64)
    """
    gap = 1 - second_eigenvalue(transition, tolerance=tolerance).modulus
    rounding = transition.n_states * torch.finfo(gap.dtype).eps
    return torch.where(gap <= rounding, 0.0, gap)


def relaxation_time(
    transition: AbstractTransition, *, tolerance: float = 1e-4
) -> Float[Tensor, "*batch"]:
    r"""$1 / (1 - |\lambda_2|)$, in bounces; infinite where the gap is 0.

    Args:
        transition: One chain or a batch.
        tolerance: Residual norm to reach for lambda_2.

    Returns:
        One number for each chain.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).double())
        >>> relaxation_time(two)
        tensor(1.6667, dtype=torch.float64)
    """
    return 1 / spectral_gap(transition, tolerance=tolerance)


def implied_timescale(
    transition: AbstractTransition, *, tolerance: float = 1e-4
) -> Float[Tensor, "*batch"]:
    r"""$-1 / \ln |\lambda_2|$, in bounces: when the slowest memory has decayed by e.

    Args:
        transition: One chain or a batch.
        tolerance: Residual norm to reach for lambda_2.

    Returns:
        One number for each chain; infinite where abs(lambda_2) is 1.
    """
    return -1 / torch.log1p(-spectral_gap(transition, tolerance=tolerance))


def mixing_time(
    transition: AbstractTransition,
    stationary: Float[Tensor, "*batch n"],
    *,
    epsilon: float = 0.25,
    max_bounces: int = 2**20,
) -> Float[Tensor, "*batch"]:
    r"""The first t with $\max_i \tfrac12 \|P^t(i, \cdot) - \pi\|_1 \le \epsilon$.

    The worst start counts, so the powers of the stored matrix are needed: found by
    repeated squaring and bisection, since the distance never grows with t.

    Args:
        transition: One chain or a batch, small enough to store.
        stationary: Its stationary distribution.
        epsilon: Total variation distance to reach, in (0, 1).
        max_bounces: Answers beyond this are given as infinite (a periodic chain
            never mixes).

    Returns:
        Bounces for each chain.

    Raises:
        ShapeError: epsilon outside (0, 1), or the matrix does not fit the memory
            budget; use `relaxation_time` then.

    Sources:
        Levin, Peres and Wilmer, Markov Chains and Mixing Times, section 4.5.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).double())
        >>> mixing_time(two, torch.tensor([5 / 6, 1 / 6]).double())
        tensor(2., dtype=torch.float64)
    """
    if not 0 < epsilon < 1:
        raise ShapeError(f"epsilon must lie in (0, 1), but is {epsilon!r}")
    shape = transition.shape[-2:]
    if not fits_budget(shape, torch.float64, transition.device):
        message = f"mixing_time stores {tuple(shape)} matrices; use relaxation_time"
        raise ShapeError(message)
    pi = stationary.double().expand(*transition.batch_shape, transition.n_states)
    times = [
        _first_mixed(chain.to(torch.float64).to_dense(), target, epsilon, max_bounces)
        for chain, target in zip(
            transition.chains(), pi.reshape(-1, transition.n_states), strict=True
        )
    ]
    return torch.tensor(times, dtype=torch.float64).view(transition.batch_shape)


def _first_mixed(matrix: Tensor, pi: Tensor, epsilon: float, max_bounces: int) -> float:
    def mixed(power: Tensor) -> bool:
        return float((power - pi).abs().sum(-1).max()) / 2 <= epsilon

    if 1 - float(pi.min()) <= epsilon:
        return 0.0
    powers = [matrix]
    while not mixed(powers[-1]):
        if 2 ** len(powers) > max_bounces:
            return math.inf
        powers.append(powers[-1] @ powers[-1])
    if len(powers) == 1:
        return 1.0
    bounces, reached = 2 ** (len(powers) - 2), powers[-2]
    for exponent in range(len(powers) - 3, -1, -1):
        further = reached @ powers[exponent]
        if not mixed(further):
            bounces, reached = bounces + 2**exponent, further
    return float(bounces + 1)
