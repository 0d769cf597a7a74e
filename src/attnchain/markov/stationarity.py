"""The stationary distribution of a chain, with a certified error."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from attnchain.checks import check_distribution
from attnchain.errors import (
    ConvergenceError,
    NumericalWarning,
    ReducibleChainError,
    ShapeError,
)
from attnchain.markov.assessment import closed_classes, is_irreducible
from attnchain.markov.certified import Certificate, check_floor, incoming, outgoing
from attnchain.markov.concurrent import for_each_chain
from attnchain.markov.equations import Equations
from attnchain.markov.implicit import with_gradient
from attnchain.markov.linear import (
    INVERSE_LIMIT,
    Correction,
    SolverName,
    working_chain,
)
from attnchain.markov.results import Outcome, Stationary
from attnchain.operators import (
    AbstractTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
    fits_budget,
    stored,
)

OnFailure = Literal["raise", "warn", "return"]

_REMEDY = "damp it (damping < 1) or keep one class only with Restricted"


def stationary(
    transition: AbstractTransition,
    *,
    tolerance: float = 1e-6,
    solver: SolverName = "auto",
    max_iterations: int = 5_000,
    start: Tensor | None = None,
    on_failure: OnFailure = "raise",
) -> Stationary:
    r"""The distribution that one more bounce leaves unchanged: $\pi = \pi P$.

    It exists for every chain and is unique when the chain is irreducible, in
    particular for damped chains. Damped chains, and their column-normalised form,
    are solved as linear equations with a **certified** bound on the L1 error: the
    residual, measured in float64 on the numbers as given, plus the rounding of that
    measurement, over (1 - damping). Small undamped chains get a certificate from the
    inverse of their own equations; large undamped ones have none, their `error_bound`
    is infinite and the tolerance is on the residual. Undamped rows are divided by
    their sums in float64: a matrix whose rows sum to 1 - 1e-8 has no pi of its own.
    The distribution is differentiable in queries, keys, stored matrices and the
    personalization, by implicit differentiation.

    Args:
        transition: One chain or a batch.
        tolerance: Largest `error_bound` accepted (L1).
        solver: "auto" factorises up to 256 states and uses restarted GMRES beyond;
            "anderson" is safeguarded Anderson acceleration, "direct" factorises at
            any size, "power" iterates plainly, as a reference.
        max_iterations: Iterations to spend on each chain.
        start: A distribution `(n,)` or `(*batch, n)` to start from; it
            changes the cost only.
        on_failure: Raise `ConvergenceError` carrying the unfinished result, warn, or
            just return it with its outcome.

    Returns:
        `Stationary`, its distribution in float64.

    Raises:
        ReducibleChainError: Undamped, and some state cannot reach some other.
        ConvergenceError: The tolerance was not reached.
        ShapeError: An option is unknown or out of range.
        ToleranceError: Rounding alone exceeds the tolerance.
        NotStochasticError: Damped rows sum to more than one by more than damping
            allows (rounded input: pass it through `normalize_rows`).

    Cost:
        About 10 to 70 products of one vector, or one factorisation; memory n^2 where
        the matrix fits the budget, else O(n d).

    Sources:
        Gleich, PageRank beyond the Web, SIAM Review 2015, for the linear equations;
        Meyer, SIAM Review 1975, for the inverse of an undamped chain.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).double())
        >>> stationary(two).distribution
        tensor([0.8333, 0.1667], dtype=torch.float64)
    """
    if not tolerance > 0:
        raise ShapeError(f"tolerance must be > 0, but is {tolerance!r}")
    _check_choice(solver, get_args(SolverName), "solver")
    _check_choice(on_failure, get_args(OnFailure), "on_failure")
    if max_iterations != int(max_iterations) or max_iterations < 1:
        message = f"max_iterations must be a whole number >= 1, not {max_iterations!r}"
        raise ShapeError(message)
    starts = _starts(transition, start)
    with torch.no_grad():
        options = [_Options(tolerance, solver, max_iterations, x) for x in starts]
        solved = for_each_chain(_solve_chain, transition, options)
    result = _collect(solved, transition.batch_shape)
    if torch.is_grad_enabled() and transition.requires_grad:
        attached = with_gradient(transition, result.distribution)
        result = replace(result, distribution=attached)
    if result.outcome is not Outcome.CONVERGED and on_failure != "return":
        _report(result, tolerance, on_failure)
    return result


@dataclass(frozen=True)
class _Solved:
    """One chain's answer."""

    distribution: Tensor
    bound: float
    residual: float
    iterations: int
    products: int
    outcome: Outcome


@dataclass(frozen=True)
class _Options:
    tolerance: float
    solver: SolverName
    max_iterations: int
    start: Tensor | None


def _starts(
    transition: AbstractTransition, start: Tensor | None
) -> Sequence[Tensor | None]:
    """The start of every chain of the batch."""
    batch, n = transition.batch_shape, transition.n_states
    if start is None:
        return [None] * math.prod(batch)
    check_distribution(start, n, "start")
    if start.shape[:-1] not in (torch.Size(), batch):
        message = f"start must be ({n},) or {(*batch, n)}, not {tuple(start.shape)}"
        raise ShapeError(message)
    wide = start.detach().to(device=transition.device, dtype=torch.float64)
    return list(wide.expand(*batch, n).reshape(-1, n))


def _solve_chain(chain: AbstractTransition, options: _Options) -> _Solved:
    if isinstance(chain, Damped) and chain.damping < 1:
        return _solve_damped(*incoming(chain), options)
    inner = chain.base if isinstance(chain, ColumnNormalized) else None
    if isinstance(inner, Damped) and inner.damping < 1:
        return _solve_damped(*outgoing(inner), options)
    return _solve_undamped(chain, options)


@dataclass(frozen=True)
class _Refined:
    """A solution of the equations, its residual, and what it took."""

    x: Tensor
    residual: Tensor
    iterations: int
    products: int
    outcome: Outcome


def _refined(
    equations: Equations,
    x: Tensor,
    allowed: Callable[[Tensor], float],
    options: _Options,
) -> _Refined:
    """Refinement: residuals in float64, corrections over the working chain."""
    exact = equations.chain
    working = working_chain(exact)
    correction = Correction.prepare(equations, working, options.solver)
    iterations, rounds, last = 0, 0, math.inf
    while True:
        residual = equations.residual(x)
        rounds += 1
        norm, target = float(residual.abs().sum()), allowed(x)
        if norm <= target:
            outcome = Outcome.CONVERGED
            break
        if iterations >= options.max_iterations:
            outcome = Outcome.ITERATION_LIMIT
            break
        if not norm <= last / 2:
            if correction.chain is exact:
                outcome = Outcome.STALLED
                break
            correction = Correction.prepare(equations, exact, options.solver)
        last = min(norm, last)
        budget = options.max_iterations - iterations
        step, taken, correction = correction.solve(equations, residual, target, budget)
        x = (x + step.double()).clamp_min(0)
        iterations += taken
    return _Refined(x, residual, iterations, iterations + rounds, outcome)


def _solve_damped(
    equations: Equations, certificate: Certificate, options: _Options
) -> _Solved:
    def allowed(x: Tensor) -> float:
        return certificate.allowed(equations, x, options.tolerance)

    first = certificate.start
    if options.start is not None:
        given = options.start / equations.diagonal
        drawn = (certificate.drawn * given).sum()
        first = given / drawn if float(drawn) > 0 else first
    found = _refined(equations, first, allowed, options)
    bound = certificate.bound(equations, found.x, float(found.residual.abs().sum()))
    change = certificate.change(equations, found.x, found.residual)
    distribution = equations.diagonal * found.x
    return _Solved(
        distribution / distribution.sum(),
        bound,
        change,
        found.iterations,
        found.products,
        found.outcome,
    )


def _solve_undamped(chain: AbstractTransition, options: _Options) -> _Solved:
    _check_irreducible(chain)
    base = chain.to(torch.float64)
    exact = stored(base)
    small = isinstance(exact, DenseTransition) and exact.n_states <= INVERSE_LIMIT
    if options.solver == "direct" or (options.solver == "auto" and small):
        return _solve_direct(exact, base.row_error, options)
    n = exact.n_states
    start = options.start
    if start is None:
        start = torch.full((n,), 1 / n, dtype=torch.float64, device=exact.device)
    row_sums = exact.pull(torch.ones_like(start))
    equations = Equations(exact, "push", 1.0, 0 * start, row_sums)

    def mass(x: Tensor) -> Tensor:
        return (row_sums * x).sum()

    found = _refined(
        equations, start, lambda x: options.tolerance * float(mass(x)), options
    )
    distribution = row_sums * found.x / mass(found.x)
    residual = float(found.residual.abs().sum() / mass(found.x))
    products = found.products + 1
    return _Solved(
        distribution, math.inf, residual, found.iterations, products, found.outcome
    )


def _solve_direct(
    exact: AbstractTransition, row_error: float, options: _Options
) -> _Solved:
    """Pi (1 - P + 1 u) = u for uniform u; the inverse bounds the error."""
    n = exact.n_states
    uniform = torch.full((n,), 1 / n, dtype=torch.float64, device=exact.device)
    matrix = exact.to_dense()
    matrix = matrix / matrix.sum(-1, keepdim=True)
    system = torch.eye(n, dtype=torch.float64, device=exact.device) - matrix + uniform
    inverse, singular = torch.linalg.inv_ex(system)
    if int(singular) != 0:
        message = f"the undamped chain is reducible to rounding in float64; {_REMEDY}"
        raise ReducibleChainError(message)
    x = uniform @ inverse
    x = x + (uniform - x @ system) @ inverse
    x = x.clamp_min(0) / x.clamp_min(0).sum()
    residual = float((x @ matrix - x).abs().sum())
    amplification = float(inverse.abs().sum(-1).max())
    floor = amplification * row_error
    check_floor(floor, options.tolerance)
    bound = amplification * residual + floor
    converged = bound <= options.tolerance
    outcome = Outcome.CONVERGED if converged else Outcome.STALLED
    return _Solved(x, bound, residual, 1, 2, outcome)


def _check_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    if value not in choices:
        raise ShapeError(f"{name} must be one of {choices}, but is {value!r}")


def _check_irreducible(chain: AbstractTransition) -> None:
    if is_irreducible(chain):
        return
    if fits_budget(chain.shape, chain.dtype, chain.device):
        classes = closed_classes(chain)
        shown = ", ".join(
            f"{len(c)} states from {int(c[0])} on" if len(c) > 1 else f"state {int(c)}"
            for c in classes[:5]
        )
        message = (
            f"the undamped chain is reducible: it has {len(classes)} closed "
            f"class(es) ({shown}), which take all probability; {_REMEDY}"
        )
    else:
        message = f"the undamped chain is reducible; {_REMEDY}"
    raise ReducibleChainError(message)


def _collect(solved: list[_Solved], batch: torch.Size) -> Stationary:
    device = solved[0].distribution.device

    def field(values: list[float] | list[int]) -> Tensor:
        dtype = torch.int64 if isinstance(values[0], int) else torch.float64
        return torch.tensor(values, dtype=dtype, device=device).view(batch)

    distribution = torch.stack([s.distribution for s in solved])
    order = list(Outcome)
    return Stationary(
        distribution=distribution.view(*batch, distribution.shape[-1]),
        error_bound=field([s.bound for s in solved]),
        residual=field([s.residual for s in solved]),
        iterations=field([s.iterations for s in solved]),
        products=field([s.products for s in solved]),
        outcome=max((s.outcome for s in solved), key=order.index),
    )


def _report(result: Stationary, tolerance: float, on_failure: OnFailure) -> None:
    message = (
        f"the stationary distribution {result.outcome.value}: L1 error bound "
        f"{float(result.error_bound.max()):.2g}, residual "
        f"{float(result.residual.max()):.2g}, tolerance {tolerance:.2g}, after at "
        f"most {int(result.iterations.max())} iterations; raise max_iterations, "
        "lower damping or raise the tolerance"
    )
    if on_failure == "raise":
        raise ConvergenceError(message, result)
    warnings.warn(message, NumericalWarning, stacklevel=3)
