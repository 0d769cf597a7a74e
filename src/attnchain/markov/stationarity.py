"""The stationary distribution of a chain, with a certified error.

Damped chains, and their column-normalised form, are solved as linear equations:
the bound is the residual, measured in float64, plus the rounding of that
measurement, over (1 - damping). Undamped chains are eliminated state by state
without a subtraction, which is right for sets that are left once in 1e200 bounces
too; those too large to store, or iterated, are certified by the time they take to
their heaviest state. Undamped rows are divided by their sums in float64: a matrix
whose rows sum to 1 - 1e-8 has no pi of its own.

Sources: Gleich, PageRank beyond the Web, SIAM Review 2015, for the linear equations;
Grassmann, Taksar and Heyman, Operations Research 1985, for the elimination; Meyer,
SIAM Review 1975, for the inverse of an undamped chain.
"""

# pyright: reportUnknownMemberType=false

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from attnchain.checks import (
    check_choice,
    check_distribution,
    check_positive,
    check_whole,
)
from attnchain.errors import (
    ConvergenceError,
    NumericalWarning,
    ReducibleChainError,
    ShapeError,
    ToleranceError,
)
from attnchain.markov import certificates
from attnchain.markov.answers import Options, Solved, collected
from attnchain.markov.batches import for_each_chain
from attnchain.markov.certificates import check_floor
from attnchain.markov.gradients import with_gradient
from attnchain.markov.results import Outcome, Stationary
from attnchain.markov.solvers.elimination import eliminate, rounding_bound
from attnchain.markov.solvers.linear import INVERSE_LIMIT, Refined, SolverName, refine
from attnchain.markov.structure import (
    check_irreducible,
    check_one_class,
    reaches_all,
)
from attnchain.operators import (
    AbstractTransition,
    ColumnNormalized,
    Damped,
    check_transition,
    fits_budget,
    stored,
)

OnFailure = Literal["raise", "warn", "return"]


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

    It exists for every chain, and is unique when that is irreducible or damped. Every
    answer has a **certified** bound on its L1 error, for the numbers as given, and
    converged where that is within the tolerance; how is told at the top of this
    module. Differentiable in queries, keys, stored matrices and personalization.

    Args:
        transition: One chain or a batch.
        tolerance: Largest `error_bound` accepted (L1).
        solver: "auto" factorises or eliminates small chains, and large ones that
            restarted GMRES, "gmres", cannot certify, where they can be stored;
            "anderson" is safeguarded Anderson acceleration; "direct" factorises or
            eliminates at any size; "power" iterates plainly, as a reference.
        max_iterations: Iterations to spend on each chain.
        start: A distribution `(n,)` or `(*batch, n)` to start from, for the cost only.
        on_failure: Raise `ConvergenceError` with what was found, warn, or return it.

    Returns:
        `Stationary`, its distribution in float64.

    Raises:
        ReducibleChainError: Undamped, and some state cannot reach some other; or
            column-normalised with a personalization that leaves several distributions.
        ConvergenceError: The tolerance was not reached.
        ArgumentError: No chain, or an option is unknown or out of range.
        ToleranceError: Rounding alone exceeds the tolerance.
        NotStochasticError: Damped rows sum to more than one by more than damping
            allows (rounded input: pass it through `normalize_rows`).

    Cost:
        About 10 to 70 products of one vector, or one factorisation; memory n^2 where
        the matrix fits the budget, else O(n d).

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).double())
        >>> stationary(two).distribution
        tensor([0.8333, 0.1667], dtype=torch.float64)
    """
    check_choice(on_failure, get_args(OnFailure), "on_failure")
    options = _options(transition, tolerance, solver, max_iterations, start)
    with torch.no_grad():
        solved = for_each_chain(_solve_chain, transition, options)
    result = collected(solved, transition)
    if transition.tracks_gradients:
        attached = with_gradient(transition, result.distribution)
        result = replace(result, distribution=attached)
    _report(result, tolerance, on_failure)
    return result


def _options(
    transition: AbstractTransition,
    tolerance: float,
    solver: SolverName,
    max_iterations: int,
    start: Tensor | None,
) -> list[Options]:
    """What each chain is solved with, checked."""
    check_transition(transition)
    check_positive(tolerance, "tolerance")
    check_choice(solver, get_args(SolverName), "solver")
    check_whole(max_iterations, "max_iterations")
    starts = _starts(transition, start)
    return [Options(tolerance, solver, max_iterations, x) for x in starts]


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
    return transition.apart(wide)


def _solve_chain(chain: AbstractTransition, options: Options) -> Solved:
    damped = chain.base if isinstance(chain, ColumnNormalized) else chain
    if not isinstance(damped, Damped) or damped.damping == 1:
        return _solve_undamped(chain.to(torch.float64), options)
    turned, v = damped is not chain, damped.to(torch.float64).jump
    if turned and not reaches_all(damped.base, v > 0):
        # Against attention, nobody comes back from the tokens v never leads to.
        exact = chain.to(torch.float64)
        check_one_class(exact)
        return _solve_eliminated(exact, options)
    free = _may_be_eliminated(chain, options)
    try:
        solved = _solve_damped(damped, turned, options)
    except ToleranceError:
        if not free:
            raise
    else:
        if solved.outcome is Outcome.CONVERGED or not free:
            return solved
    return _solve_eliminated(chain.to(torch.float64), options)


def _solve_damped(damped: Damped, turned: bool, options: Options) -> Solved:
    make = certificates.outgoing if turned else certificates.incoming
    equations, certificate = make(damped)
    first = certificate.start
    if options.start is not None:
        given = options.start / equations.diagonal
        drawn = (certificate.drawn * given).sum()
        first = given / drawn if float(drawn) > 0 else first
    found = refine(
        equations,
        first,
        lambda x, _: certificate.allowed(equations, x, options.tolerance),
        solver=options.solver,
        max_iterations=options.max_iterations,
    )
    bound = certificate.bound(equations, found.x, float(found.residual.abs().sum()))
    change = certificate.change(equations, found.x, found.residual)
    weights = equations.diagonal * found.x
    return Solved.judged(found, weights, bound, change, options.tolerance)


def _solve_undamped(chain: AbstractTransition, options: Options) -> Solved:
    exact = stored(chain)
    check_irreducible(exact)
    free = _may_be_eliminated(exact, options)
    small = exact.n_states <= INVERSE_LIMIT or options.solver == "direct"
    if not (free and small):
        solved = _iterated(chain, exact, options)
        if solved.outcome is Outcome.CONVERGED or not free:
            return solved
    return _solve_eliminated(chain, options)


def _iterated(
    chain: AbstractTransition, exact: AbstractTransition, options: Options
) -> Solved:
    """By products alone, then once more as exactly as the certificate asks for."""
    equations = certificates.undamped(exact)
    sums, n = equations.diagonal, exact.n_states
    start = equations.right if options.start is None else options.start
    search = partial(refine, equations, solver=options.solver)
    most = options.max_iterations
    rough = search(
        start / sums, lambda _x, _r: options.tolerance / n, max_iterations=most
    )
    times = certificates.HittingTimes.prepare(equations, rough.x, chain.row_error)
    found = search(
        rough.x,
        lambda x, r: times.allowed(equations, x, r, options.tolerance),
        max_iterations=most - rough.iterations,
    )
    found = replace(
        found,
        iterations=rough.iterations + found.iterations,
        products=rough.products + times.products + 2 * found.products + 1,
    )
    bound, change = times.bound(equations, found.x)
    return Solved.judged(found, sums * found.x, bound, change, options.tolerance)


def _may_be_eliminated(chain: AbstractTransition, options: Options) -> bool:
    """Whether the solver may store the matrix and its elimination, and it can help."""
    n = chain.n_states
    if options.solver != "auto":
        return options.solver == "direct"
    helps = n <= INVERSE_LIMIT or rounding_bound(n) <= options.tolerance
    twice = torch.Size((2, n, n))
    return helps and fits_budget(twice, torch.float64, chain.device)


def _solve_eliminated(exact: AbstractTransition, options: Options) -> Solved:
    """Elimination of a chain in float64 with one closed class."""
    matrix = exact.to_dense()
    matrix = matrix / matrix.sum(-1, keepdim=True)
    n, row_error = len(matrix), exact.row_error
    x = eliminate(matrix)
    if x is None:
        message = (
            "the undamped chain is reducible to rounding in float64: some states are "
            "left with a probability below 1e-280; damp it (damping < 1) or keep one "
            "class only with Restricted"
        )
        raise ReducibleChainError(message)
    change = x @ matrix - x
    bound = rounding_bound(n) + 2 * n * row_error
    if bound > options.tolerance:
        size = _inverse_size(matrix)
        bound = min(bound, size * (float(change.abs().sum()) + row_error))
    check_floor(bound, options.tolerance)
    found = Refined(x, change, 1, 2, Outcome.STALLED)
    residual = float(change.abs().sum())
    return Solved.judged(found, x, bound, residual, options.tolerance)


def _inverse_size(matrix: Tensor) -> float:
    """How much larger than its change in one bounce an error can be: of 1 - P + 1 u."""
    n = len(matrix)
    system = torch.eye(n, dtype=matrix.dtype, device=matrix.device) - matrix + 1 / n
    inverse, singular = cast("tuple[Tensor, Tensor]", torch.linalg.inv_ex(system))
    size = float(inverse.abs().sum(-1).max())
    return size if int(singular) == 0 and size >= 1 else math.inf


def _report(result: Stationary, tolerance: float, on_failure: OnFailure) -> None:
    """Raises or warns where the tolerance was not reached."""
    if result.outcome is Outcome.CONVERGED or on_failure == "return":
        return
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
