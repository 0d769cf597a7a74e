"""The second eigenvalue of a chain: how metastable it is."""

# pyright: reportUnknownMemberType=false

import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from attnchain.checks import check_positive
from attnchain.errors import ConvergenceError, NumericalWarning
from attnchain.markov.batches import for_each_chain
from attnchain.markov.reducible import Parts, parts
from attnchain.markov.results import SecondEigenvalue
from attnchain.markov.solvers.krylov import leading_subspace
from attnchain.markov.spectral import (
    estimated_errors,
    inside_the_circle,
    stored_evenly,
    typical_row_error,
    worked_with,
)
from attnchain.operators import (
    AbstractTransition,
    AttentionTransition,
    Damped,
    DenseTransition,
    check_transition,
)

_MAX_PRODUCTS = 4_000
"""Products to spend on one attempt."""


@dataclass(frozen=True)
class _Found:
    """One chain's answer."""

    value: complex
    error: float
    products: int


def second_eigenvalue(
    transition: AbstractTransition, *, tolerance: float = 1e-4
) -> SecondEigenvalue:
    r"""The eigenvalue lambda_2 of second largest modulus: how metastable a chain is.

    $|\lambda_2|$ near 1 means the chain has sets it rarely leaves; near 0 that it
    forgets its start in one bounce. It is complex in general, and found with the
    known pair (1, pi) deflated, without computing the other eigenvalues.

    Args:
        transition: One chain or a batch; undamped (damping only scales lambda_2).
        tolerance: Error estimate to reach: residual norm and rounding of the rows,
            times the condition number.

    Returns:
        `SecondEigenvalue`; modulus 0 for a chain of one state. A triangular (causal)
        chain is read off its diagonal, a stored reducible one off its classes.

    Warns:
        NumericalWarning: lambda_2 is so ill-conditioned that its estimated error
            stays above the tolerance.

    Raises:
        ArgumentError: The tolerance is no number > 0.
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
    check_transition(transition)
    check_positive(tolerance, "tolerance")
    with torch.no_grad():
        found = for_each_chain(partial(_of_chain, tolerance=tolerance), transition)
    worst = max(one.error for one in found)
    if worst > tolerance:
        warnings.warn(
            f"lambda_2 is ill-conditioned: its error is about {worst:.1g}, not "
            f"{tolerance:.1g} (see error_estimate)",
            NumericalWarning,
            stacklevel=2,
        )
    return _collected(found, transition)


def _collected(found: list[_Found], transition: AbstractTransition) -> SecondEigenvalue:
    batch, device = transition.batch_shape, transition.device

    def field(values: list[complex], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device).view(batch)

    value = field([one.value for one in found], torch.complex128)
    told = torch.finfo(transition.dtype).eps  # the modulus is rounded to the dtype
    return SecondEigenvalue(
        value.abs().clamp_max(1).to(transition.dtype),
        value,
        field([one.error + told * abs(one.value) for one in found], transition.dtype),
        field([one.products for one in found], torch.int64),
    )


def _of_chain(chain: AbstractTransition, tolerance: float) -> _Found:
    if chain.n_states == 1:
        return _Found(0j, 0.0, 0)
    if isinstance(chain, Damped):
        base = _of_chain(chain.base, tolerance)
        alpha = chain.damping
        return _Found(alpha * base.value, alpha * base.error, base.products)
    if isinstance(chain, AttentionTransition) and chain.causal:
        return _of_causal(chain, tolerance)
    working, rounding = worked_with(chain, tolerance)
    if isinstance(working, DenseTransition):
        if _triangular(working.matrix):
            return _largest_after_the_one(working.matrix.diagonal(), rounding)
        if parts(working.matrix) is not None:
            return _of_parts(chain, tolerance)
    return _iterated(chain, working, rounding, tolerance)


def _of_causal(chain: AttentionTransition, tolerance: float) -> _Found:
    """The diagonal is the spectrum."""
    found = _largest_after_the_one(chain.diagonal(), typical_row_error(chain))
    if found.error > tolerance and chain.dtype != torch.float64:
        return _of_causal(chain.to(torch.float64), tolerance)
    return found


def _largest_after_the_one(diagonal: Tensor, rounding: float) -> _Found:
    value = float(diagonal.topk(2).values[1])
    error = max(value * rounding, value - 1)
    return _Found(complex(min(value, 1.0)), error, 1)


def _triangular(matrix: Tensor) -> bool:
    if bool(matrix[0, 1:].any()) and bool(matrix[-1, :-1].any()):
        return False
    return torch.equal(matrix, matrix.tril()) or torch.equal(matrix, matrix.triu())


def _of_parts(chain: AbstractTransition, tolerance: float) -> _Found:
    """The largest over the classes, beside one 1."""
    exact = stored_evenly(chain.to(torch.float64))
    whole: Parts | None = parts(exact.to_dense())
    if whole is None:  # what single precision lost connects it
        return _iterated(exact, exact, typical_row_error(exact), tolerance)
    if whole.closed > 1:
        return _Found(1 + 0j, 0.0, 1)
    rounding = typical_row_error(exact)
    found = [_iterated(part, part, rounding, tolerance) for part in whole.chains]
    alone = cast("list[float]", whole.alone.tolist())
    found += [_Found(complex(x), x * rounding, 0) for x in alone]
    largest = max(found, key=lambda one: abs(one.value))
    reach = max(abs(one.value) + one.error for one in found)
    products = 1 + sum(one.products for one in found)
    error = max(largest.error, reach - abs(largest.value))
    return _Found(largest.value, error, products)


def _iterated(
    chain: AbstractTransition,
    working: AbstractTransition,
    rounding: float,
    tolerance: float,
) -> _Found:
    """By block Krylov-Schur; in double precision where single does not suffice."""
    found = leading_subspace(working, 1, tolerance / 2, _MAX_PRODUCTS, conditioned=True)
    products = found.products
    error = float(estimated_errors(working, found, rounding)[0])
    if error > tolerance and working.dtype != torch.float64:
        exact = stored_evenly(chain.to(torch.float64))
        again = _iterated(exact, exact, typical_row_error(exact), tolerance)
        return replace(again, products=products + again.products)
    first = complex(found.pairs.values[0])
    value = complex(inside_the_circle(found.pairs.values)[0])
    answer = _Found(value, max(error, abs(first) - 1), products)
    if found.residuals[0] > tolerance:
        _refuse(answer, found.residuals[0], chain, tolerance)
    return answer


def _refuse(
    found: _Found, residual: float, chain: AbstractTransition, goal: float
) -> None:
    message = (
        f"lambda_2 reached a residual of {residual:.2g} after {found.products} "
        f"products, not {goal:.2g}: many eigenvalues have nearly its modulus; raise "
        "the tolerance or damp and restrict the chain"
    )

    raise ConvergenceError(message, _collected([found], chain))
