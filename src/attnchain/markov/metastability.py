"""Metastable sets: groups of tokens among which probability stays."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from attnchain.checks import check_distribution
from attnchain.errors import ShapeError
from attnchain.markov.results import MetastableSets
from attnchain.markov.spectral import spectrum
from attnchain.markov.stationarity import stationary
from attnchain.operators import AbstractTransition, stored


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
        count: Number of sets; by default where the eigenvalue moduli drop most.
        max_count: Largest number of sets considered then.
        tolerance: Residual norm of the Schur vectors.
        pi: The stationary distribution, where it is known; solved for when not given.

    Returns:
        `MetastableSets`, numbered by decreasing prevalence.

    Raises:
        ShapeError: A batch, a count outside 1..n, or one that splits a complex pair.
        ReducibleChainError: The chain is reducible; damp it.
        ConvergenceError: The subspace or the stationary distribution was not found.

    Sources:
        Deuflhard and Weber, Linear Algebra Appl. 398 (2005), for PCCA+; Weber and
        Galliat, ZIB-Report 02-12, for the inner simplex; Reuter et al., J. Chem.
        Phys. 150 (2019), for Schur vectors of non-reversible chains. We stop at the
        feasible inner simplex and do not optimise crispness further.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> block = torch.tensor([[0.5, 0.49, 0.01], [0.49, 0.5, 0.01]])
        >>> last = torch.tensor([[0.01, 0.01, 0.98]])
        >>> metastable_sets(as_transition(torch.cat([block, last]))).labels
        tensor([0, 0, 1])
    """
    n = transition.n_states
    if transition.batch_shape:
        message = (
            f"metastable_sets takes one chain, but got {transition!r}; mix it first"
        )
        raise ShapeError(message)
    if count is not None and (count != int(count) or not 1 <= count <= n):
        raise ShapeError(f"count must be a whole number in 1..{n}, but is {count!r}")
    if max_count < 2:
        raise ShapeError(f"max_count must be at least 2, but is {max_count!r}")
    chain = stored(transition)
    wanted = min(n, (count or max_count) + 1)
    leading = spectrum(chain, wanted, tolerance=tolerance)
    m = count or largest_gap(leading.eigenvalues)
    _check_pair(leading.eigenvalues, m)
    if pi is None:
        pi = stationary(transition, tolerance=tolerance).distribution
    else:
        check_distribution(pi, n, "pi")
        pi = pi.double()
    memberships = _memberships(leading.basis[:, :m].double(), pi)
    return _summary(chain, pi, memberships, leading.eigenvalues[: m + 1])


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
    n = transition.n_states
    if transition.batch_shape or memberships.ndim != 2 or len(memberships) != n:
        message = (
            f"coarse_grained takes one chain and memberships (n, m), but got "
            f"{transition!r} and {tuple(memberships.shape)}"
        )
        raise ShapeError(message)
    check_distribution(memberships, memberships.shape[1], "memberships")
    pi = stationary(transition, tolerance=tolerance).distribution
    none = torch.zeros(0, dtype=torch.complex128)
    return _summary(stored(transition), pi, memberships.double(), none)


def largest_gap(eigenvalues: Complex[Tensor, " k"]) -> int:
    """Number of sets m, 2 <= m < k, with the largest drop of modulus after it.

    A complex pair is never split.

    Args:
        eigenvalues: By decreasing modulus, first the 1.

    Returns:
        m; 2 where every choice would split a pair.
    """
    moduli = eigenvalues.abs()
    drops = moduli[1:-1] - moduli[2:]
    splits = eigenvalues[1:-1].imag > 0
    if drops.numel() == 0 or bool(splits.all()):
        return 2
    return 2 + int(drops.masked_fill(splits, -1).argmax())


def _check_pair(eigenvalues: Tensor, m: int) -> None:
    pair = len(eigenvalues) > m and bool(eigenvalues[m - 1].imag > 0)
    if pair:
        message = (
            f"{m} sets would split the complex pair of eigenvalues {m} and {m + 1}; "
            f"ask for {m + 1}" + (f" or {m - 1}" if m > 2 else "")
        )
        raise ShapeError(message)


def _memberships(basis: Tensor, pi: Tensor) -> Float[Tensor, "n m"]:
    """Corners of the simplex the rows of X lie in, shifted until nothing is negative.

    Distances are measured in the basis that is orthonormal under pi.
    """
    if basis.shape[1] == 1:
        return torch.ones_like(basis)
    root = pi.clamp_min(torch.finfo(torch.float64).tiny).sqrt()[:, None]
    others = root * basis[:, 1:]
    others = others - root * (root.T @ others)
    points = torch.cat([torch.ones_like(root), torch.linalg.qr(others).Q / root], 1)
    if points.shape[1] == 1:
        return points
    memberships = points @ torch.linalg.inv(points[_inner_simplex(points)])
    lowest = memberships.min(0).values
    return ((memberships - lowest) / (1 - lowest.sum())).clamp_min(0)


def _inner_simplex(points: Float[Tensor, "n m"]) -> list[int]:
    """States at the corners: the farthest out, then farthest from those chosen."""
    corners = [int(points.norm(dim=1).argmax())]
    rest = points - points[corners[0]]
    for _ in range(points.shape[1] - 1):
        corners.append(int(rest.norm(dim=1).argmax()))
        direction = rest[corners[-1]] / rest[corners[-1]].norm()
        rest = rest - (rest @ direction)[:, None] * direction
    return corners


def _summary(
    chain: AbstractTransition,
    pi: Tensor,
    memberships: Tensor,
    eigenvalues: Tensor,
) -> MetastableSets:
    order = (pi @ memberships).argsort(descending=True, stable=True)
    memberships = memberships[:, order]
    labels = memberships.argmax(-1)
    m = memberships.shape[1]
    prevalence = pi @ memberships
    weighted = pi[:, None] * memberships
    pulled = chain.pull(memberships.T.to(chain.dtype)).double().T
    coarse = torch.linalg.solve(weighted.T @ memberships, weighted.T @ pulled)
    crisp = torch.nn.functional.one_hot(labels, m).double()
    stays = chain.pull(crisp.T.to(chain.dtype)).double().T
    mass = (pi[:, None] * crisp).sum(0)
    retention = (pi[:, None] * crisp * stays).sum(0) / mass
    return MetastableSets(
        memberships, labels, coarse, prevalence, retention, eigenvalues
    )
