"""Metastable sets: groups of tokens among which probability stays.

Sources: Deuflhard and Weber, Linear Algebra Appl. 398 (2005), for PCCA+; Weber and
Galliat, ZIB-Report 02-12, for the inner simplex; Reuter et al., J. Chem. Phys. 150
(2019), for Schur vectors of non-reversible chains; Roeblitz and Weber, Adv. Data
Anal. Classif. 7 (2013), for crispness. We stop at the feasible inner simplex and do
not optimise crispness further.
"""

# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from attnchain.checks import (
    check_count,
    check_distribution,
    check_floating,
    check_positive,
)
from attnchain.errors import ArgumentError, ReducibleChainError, ShapeError
from attnchain.markov.memberships import crispness, fuzzy_sets
from attnchain.markov.padding import of_live_states
from attnchain.markov.results import MetastableSets
from attnchain.markov.spectral import spectrum, stored_evenly
from attnchain.markov.stationarity import stationary
from attnchain.operators import (
    AbstractTransition,
    check_transition,
    full_precision,
    is_causal,
)

_NO_DROP = 1e-8
"""Moduli nearer than this, or than rounding, are one and not to be parted."""
_SINGULAR = 1e-10
"""Sets that overlap by all but this part are one."""


@of_live_states
@full_precision
def metastable_sets(
    transition: AbstractTransition,
    count: int | None = None,
    *,
    max_count: int = 8,
    tolerance: float = 1e-4,
    pi: Float[Tensor, " n"] | None = None,
) -> MetastableSets:
    r"""Splits a chain into the sets it rarely leaves (PCCA+ on Schur vectors).

    The leading right invariant subspace X holds the observables the chain forgets
    last; they are nearly constant on metastable sets. Memberships
    $\chi = X A \ge 0$ with rows summing to one are read from the simplex whose corners
    are the states most extreme in X (inner simplex algorithm).

    Args:
        transition: One chain: mix heads first. Restrict it to patch tokens first.
        count: Number of sets; by default the one that stands out most: `crispness`
            above chance (1 / m) times the drop of the eigenvalue modulus after m.
        max_count: Largest number of sets considered then.
        tolerance: Residual norm of the Schur vectors.
        pi: The stationary distribution, where it is known; solved for when not given.

    Returns:
        `MetastableSets`, numbered by decreasing prevalence.

    Raises:
        ArgumentError: A count outside 1..n, or one that splits a complex pair or
            other eigenvalues of one modulus; or no number of sets can be told apart.
        ShapeError: A batch.
        ReducibleChainError: The chain is reducible; damp it.
        ConvergenceError: The subspace or the stationary distribution was not found.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> block = torch.tensor([[0.5, 0.49, 0.01], [0.49, 0.5, 0.01]])
        >>> last = torch.tensor([[0.01, 0.01, 0.98]])
        >>> metastable_sets(as_transition(torch.cat([block, last]))).labels
        tensor([0, 0, 1])
    """
    check_transition(transition)
    n = transition.n_states
    if count is None:
        check_count(max_count, "max_count", low=2, high=2**31, meaning="sets")
        levels = metastable_levels(
            transition, max_count=min(max_count, n), tolerance=tolerance, pi=pi
        )
        return most_distinct(levels)
    check_count(count, "count", low=1, high=n, meaning="the number of states")
    pi = _known_or_solved(transition, tolerance, pi)
    chain = stored_evenly(transition)
    leading = spectrum(chain, min(n, count + 1), tolerance=tolerance)
    _check_cut(leading.eigenvalues, count, chain.dtype)
    return _sets(chain, pi, leading.basis, leading.eigenvalues, count)


@of_live_states
@full_precision
def metastable_levels(
    transition: AbstractTransition,
    *,
    max_count: int = 8,
    tolerance: float = 1e-4,
    pi: Float[Tensor, " n"] | None = None,
) -> tuple[MetastableSets, ...]:
    """Sets for every number that can be told apart, from one decomposition.

    Args:
        transition: One chain, as for `metastable_sets`.
        max_count: Largest number of sets, 2..n.
        tolerance: Residual norm of the Schur vectors.
        pi: The stationary distribution, where it is known.

    Returns:
        `MetastableSets` by increasing number; numbers that would part eigenvalues of
        one modulus are left out.

    Raises:
        ArgumentError: max_count outside 2..n, or no number is left.
        ShapeError: A batch.
        ReducibleChainError: The chain is reducible; damp it.
        ConvergenceError: The subspace or the stationary distribution was not found.

    Example:
        >>> from attnchain import as_transition
        >>> from attnchain.testing import chains
        >>> nested = as_transition(chains.block_diagonal(3, 2, 0.1).matrix)
        >>> [len(level.prevalence) for level in metastable_levels(nested, max_count=4)]
        [3]
    """
    check_transition(transition)
    n = transition.n_states
    check_count(max_count, "max_count", low=2, high=n, meaning="the number of states")
    pi = _known_or_solved(transition, tolerance, pi)
    chain = stored_evenly(transition)
    leading = spectrum(chain, min(n, max_count + 1), tolerance=tolerance)
    levels: list[MetastableSets] = []
    for m in range(2, min(max_count, max(n - 1, 2)) + 1):  # n sets would say nothing
        if _parted(leading.eigenvalues, m, chain.dtype):
            continue
        try:
            sets = _sets(chain, pi, leading.basis, leading.eigenvalues, m)
        except ArgumentError:  # so many overlap too much
            continue
        levels.append(sets)
    if not levels:
        message = (
            f"no number of sets in 2..{max_count} can be told apart: the eigenvalues "
            f"have one modulus ({float(leading.eigenvalues[1].abs()):.3g}) or sets "
            "overlap; raise max_count, or the chain has no metastable sets"
        )
        raise ArgumentError(message)
    return tuple(levels)


def _known_or_solved(
    transition: AbstractTransition, tolerance: float, pi: Tensor | None
) -> Tensor:
    """The stationary distribution, before anything that takes long."""
    n = transition.n_states
    check_positive(tolerance, "tolerance")
    if transition.batch_shape:
        message = (
            f"metastable_sets takes one chain, since each may have another number of "
            f"sets, but got {transition!r}; mix heads first, and ask each text or "
            f"picture by itself: [metastable_sets(one) for one in chains.chains()]"
        )
        raise ShapeError(message)
    if pi is not None:
        check_distribution(pi, n, "pi")
        return pi.double()
    if n > 1 and is_causal(transition):
        message = (
            "causal attention is never left for later tokens, so it is reducible: damp "
            "it (damping < 1), or ask attnchain.operators.forward_backward of it"
        )
        raise ReducibleChainError(message)
    return stationary(transition, tolerance=tolerance).distribution


def most_distinct(levels: Sequence[MetastableSets]) -> MetastableSets:
    r"""The sets that stand out most, of `metastable_levels`.

    $\bigl(\xi_m - \tfrac 1 m\bigr) / \bigl(1 - \tfrac 1 m\bigr) \cdot
    (|\lambda_m| - |\lambda_{m + 1}|)$ is largest: crispness $\xi_m$ above that of
    equal memberships, times the drop of the eigenvalues.

    Args:
        levels: What `metastable_levels` returned.

    Returns:
        One of them.
    """
    return max(levels, key=_standing_out)


def _standing_out(sets: MetastableSets) -> float:
    m = len(sets.prevalence)
    above = (float(sets.crispness) - 1 / m) / (1 - 1 / m)
    return above * _drop(sets.eigenvalues, m)


def _drop(eigenvalues: Complex[Tensor, " k"], m: int) -> float:
    """How much smaller in modulus number m + 1 is than number m; none is 0."""
    moduli = eigenvalues.abs()
    return float(moduli[m - 1] - moduli[m]) if m < len(moduli) else float(moduli[-1])


def _parted(eigenvalues: Tensor, m: int, dtype: torch.dtype) -> bool:
    """Whether m of them part a complex pair, or others of one modulus."""
    return m < len(eigenvalues) and (
        bool(eigenvalues[m - 1].imag > 0)
        or _drop(eigenvalues, m) <= max(_NO_DROP, torch.finfo(dtype).eps)
    )


def _check_cut(eigenvalues: Tensor, m: int, dtype: torch.dtype) -> None:
    if m > 1 and _parted(eigenvalues, m, dtype):
        kind = "complex pair of" if eigenvalues[m - 1].imag > 0 else "equal moduli of"
        message = (
            f"{m} sets would split the {kind} eigenvalues {m} and {m + 1}; "
            f"ask for {m + 1}" + (f" or {m - 1}" if m > 2 else "")
        )
        raise ArgumentError(message)


@of_live_states
@full_precision
def coarse_grained(
    transition: AbstractTransition,
    memberships: Float[Tensor, "n m"],
    *,
    tolerance: float = 1e-4,
) -> MetastableSets:
    """What given sets mean to a chain: their prevalence, retention and coarse chain.

    Use it to read sets found on one chain (say, on `forward_backward` of attention)
    as sets of another (attention itself).

    Args:
        transition: One chain.
        memberships: Of its states in the sets; >= 0, rows sum to one.
        tolerance: L1 error of the stationary distribution.

    Returns:
        `MetastableSets`, numbered by decreasing prevalence; without eigenvalues.

    Raises:
        ArgumentError: A set is empty, or made of others.
        ShapeError: A batch, or memberships of other states.
        NotStochasticError: A row of memberships is no distribution.
        ReducibleChainError: The chain is reducible; damp it.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.9, 0.1], [0.3, 0.7]]))
        >>> coarse_grained(two, torch.eye(2)).retention
        tensor([0.9000, 0.7000], dtype=torch.float64)
    """
    check_transition(transition)
    n = transition.n_states
    check_floating(memberships, "memberships")
    fits = memberships.ndim == 2 and len(memberships) == n and memberships.numel() > 0
    if transition.batch_shape or not fits:
        message = (
            f"coarse_grained takes one chain and memberships (n, m), m >= 1, but got "
            f"{transition!r} and {tuple(memberships.shape)}"
        )
        raise ShapeError(message)
    check_distribution(memberships, memberships.shape[1], "memberships")
    pi = stationary(transition, tolerance=tolerance).distribution
    soft, chain = memberships.double(), stored_evenly(transition)
    weighted = pi[:, None] * soft / _all_positive(pi @ soft, "memberships")
    overlaps = weighted.T @ soft
    condition = cast("Tensor", torch.linalg.cond(overlaps))
    if float(condition) > 1 / _SINGULAR:
        message = (
            "two sets of memberships have the same members, or a set is a mixture of "
            "others; leave one out"
        )
        raise ArgumentError(message)
    coarse = cast(
        "Tensor", torch.linalg.solve(overlaps, weighted.T @ _pulled(chain, soft))
    )
    none = torch.zeros(0, dtype=torch.complex128, device=pi.device)
    return _summary(chain, pi, soft, coarse, none)


def _sets(
    chain: AbstractTransition, pi: Tensor, basis: Tensor, eigenvalues: Tensor, m: int
) -> MetastableSets:
    """Memberships chi in m sets and, since P chi = chi C, the coarse chain C."""
    found = fuzzy_sets(basis[:, :m].double(), pi.clone())
    corners = found.linear[found.corners]
    moved = _pulled(chain, found.linear)[found.corners]
    coarse = cast("Tensor", torch.linalg.solve(corners, moved))
    return _summary(chain, pi, found.soft, coarse, eigenvalues[: m + 1])


def _pulled(chain: AbstractTransition, columns: Tensor) -> Tensor:
    return chain.pull(columns.T.to(chain.dtype)).double().T


def _all_positive(masses: Tensor, name: str) -> Tensor:
    """The masses of the sets, once none is zero."""
    if not bool((masses > 0).all()):
        empty = int(masses.argmin())
        message = (
            f"set {empty} of {name} holds no stationary probability: its tokens are "
            "never looked at, or it is no token's largest membership; leave it out, "
            "or ask for fewer sets"
        )
        raise ArgumentError(message)
    return masses


def _summary(
    chain: AbstractTransition,
    pi: Tensor,
    soft: Tensor,
    coarse: Tensor,
    eigenvalues: Tensor,
) -> MetastableSets:
    order = (pi @ soft).argsort(descending=True, stable=True)
    soft, coarse = soft[:, order], coarse[order][:, order]
    prevalence = pi @ soft
    labels = soft.argmax(-1)
    crisp = torch.nn.functional.one_hot(labels, soft.shape[1]).double()
    mass = _all_positive(pi @ crisp, "memberships")
    stays = (pi[:, None] * crisp * _pulled(chain, crisp)).sum(0)
    return MetastableSets(
        memberships=soft,
        labels=labels,
        coarse=coarse,
        prevalence=prevalence,
        retention=stays / mass,
        crispness=crispness(soft, pi),
        eigenvalues=eigenvalues,
    )
