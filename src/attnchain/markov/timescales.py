"""Times that follow from the second eigenvalue, and the mixing time itself."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_distribution, check_number, check_whole
from attnchain.errors import ArgumentError, ShapeError
from attnchain.markov.lambda2 import second_eigenvalue
from attnchain.operators import AbstractTransition, check_transition, fits_budget


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
    slowest = second_eigenvalue(transition, tolerance=tolerance).eigenvalue
    gap = 1 - slowest.abs()
    rounding = transition.n_states * torch.finfo(transition.dtype).eps
    return torch.where(gap <= rounding, 0.0, gap).to(transition.dtype)


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
        >>> relaxation_time(as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]])))
        tensor(1.6667)
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
        ArgumentError: epsilon outside (0, 1), or no whole number of bounces.
        ShapeError: `stationary` is of other states, or the matrix does not fit the
            memory budget; use `relaxation_time` then.
        NotStochasticError: `stationary` is no distribution.

    Sources:
        Levin, Peres and Wilmer, Markov Chains and Mixing Times, section 4.5.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).double())
        >>> mixing_time(two, torch.tensor([5 / 6, 1 / 6]).double())
        tensor(2., dtype=torch.float64)
    """
    pi = _checked(transition, stationary, epsilon, max_bounces)
    times = [
        _first_mixed(chain.to(torch.float64).to_dense(), target, epsilon, max_bounces)
        for chain, target in zip(transition.chains(), pi, strict=True)
    ]
    return torch.tensor(times, dtype=torch.float64).view(transition.batch_shape)


def _checked(
    transition: AbstractTransition, stationary: Tensor, epsilon: float, max_bounces: int
) -> list[Tensor]:
    """The stationary distribution of every chain of the batch."""
    check_transition(transition)
    check_number(epsilon, "epsilon")
    if not 0 < epsilon < 1:
        raise ArgumentError(f"epsilon must lie in (0, 1), but is {epsilon!r}")
    check_whole(max_bounces, "max_bounces")
    check_distribution(stationary, transition.n_states, "stationary")
    if stationary.shape[:-1] not in (torch.Size(), transition.batch_shape):
        message = (
            f"stationary must be {(transition.n_states,)} or "
            f"{tuple(transition.shape[:-1])}, but has shape {tuple(stationary.shape)}"
        )
        raise ShapeError(message)
    shape = transition.shape[-2:]
    if not fits_budget(shape, torch.float64, transition.device):
        message = f"mixing_time stores {tuple(shape)} matrices; use relaxation_time"
        raise ShapeError(message)
    return transition.apart(stationary.double())


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
