"""TokenRank of a small stand-in chain, certified by one pass of the large one."""

import torch
from torch import Tensor

from attnchain.errors import ShapeError
from attnchain.markov.certified import incoming
from attnchain.markov.results import Outcome, Stationary
from attnchain.markov.stationarity import stationary
from attnchain.operators import AttentionTransition, Damped
from attnchain.operators.lumping import lumped


def preview(transition: Damped, landmarks: Tensor) -> Stationary:
    r"""Incoming TokenRank by landmark lumping, with its honest error bound.

    The stationary distribution of the landmarks' own small chain is prolonged by
    their exact rows; one exact pass over the large chain then certifies it.

    Args:
        transition: One damped chain over attention, neither causal nor batched.
        landmarks: Indices or mask of the landmarks.

    Returns:
        `Stationary` with zero iterations. Its bound is often larger than 1, which
        says nothing; use the distribution as a preview, or as `start` of
        `stationary`.

    Raises:
        ShapeError: Another kind of chain, or landmarks that are no states.

    Cost:
        m rows of attention and one float64 pass; TokenRank itself takes 10 to 70.

    Example:
        >>> import torch
        >>> from attnchain.operators import farthest_points
        >>> key = torch.tensor([[1.0], [1.0], [-1.0]]).double()
        >>> chain = Damped(AttentionTransition(key, key), 0.9)
        >>> float(preview(chain, farthest_points(key, 2)).error_bound) < 1e-9
        True
    """
    base = transition.base if isinstance(transition, Damped) else None
    if not isinstance(base, AttentionTransition) or transition.damping == 1:
        message = f"preview takes a damped chain over attention, but got {transition!r}"
        raise ShapeError(message)
    with torch.no_grad():
        small = lumped(base, landmarks)
        jump = transition.to(torch.float64).jump
        coarse = Damped(small.coarse, transition.damping, small.lump(jump))
        pushed = small.prolong(stationary(coarse).distribution).double()
        x = transition.damping * pushed + (1 - transition.damping) * jump
        x = x / x.sum()
        equations, certificate = incoming(transition)
        residual = equations.residual(x)
        bound = certificate.bound(equations, x, float(residual.abs().sum()))
        change = certificate.change(equations, x, residual)
    zero = torch.zeros((), dtype=torch.int64)
    like = {"dtype": torch.float64, "device": x.device}
    return Stationary(
        x,
        torch.tensor(bound, **like),
        torch.tensor(change, **like),
        zero,
        zero + 1,
        Outcome.ITERATION_LIMIT,
    )
