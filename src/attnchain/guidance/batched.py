r"""Stationary distributions of many small damped chains in one factorisation.

Sampling asks for one chain a picture at every step, so they are solved together
instead of one after the other: $M x = b$ with $M = D - \alpha B$ as in
`attnchain.markov.equations`, factorised in the chain's precision and refined with
residuals in float64.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.errors import ConvergenceError
from attnchain.markov import Direction

ROUNDS = 4


def stationary_of_many(
    matrices: Float[Tensor, "batch n n"],
    *,
    damping: float,
    direction: Direction,
    tolerance: float,
) -> Float[Tensor, "batch n"]:
    r"""The TokenRank distributions of a batch of small chains, jumps uniform.

    Args:
        matrices: Row-stochastic matrices.
        damping: Probability of following the chain, below 1.
        direction: "incoming", or "outgoing" for damped, then column-normalised.
        tolerance: Largest L1 error accepted, by a bound from the residual:
            $\|M \Delta x\|_1 / (1 - \alpha)$, times the largest column sum for
            "outgoing".

    Raises:
        ConvergenceError: Four rounds of refinement did not reach the tolerance.

    Example:
        >>> import torch
        >>> web = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]])
        >>> stationary_of_many(
        ...     web, damping=0.85, direction="incoming", tolerance=1e-6
        ... )
        tensor([[0.2148, 0.3974, 0.3878]])
    """
    n = matrices.shape[-1]
    exact = matrices.double()
    diagonal = torch.ones_like(exact[:, 0])
    right = diagonal * (1 - damping) / n
    if direction == "incoming":
        product = exact.mT
    else:
        product = exact
        diagonal = damping * exact.sum(-2) + (1 - damping)
        right = torch.full_like(diagonal, 1 - damping)
    system = torch.diag_embed(diagonal) - damping * product
    factors = torch.linalg.lu_factor(system.to(matrices.dtype))
    x, residual = torch.zeros_like(right), right
    amplification = diagonal.amax(-1) / (1 - damping)
    bound = torch.full_like(amplification, torch.inf)
    for _ in range(ROUNDS):
        step = torch.linalg.lu_solve(*factors, residual.to(matrices.dtype)[..., None])
        x = x + step[..., 0].double()
        residual = right - (system @ x[..., None])[..., 0]
        mass = (diagonal * x).sum(-1)
        bound = 2 * amplification * residual.abs().sum(-1) / mass
        if bool((bound <= tolerance).all()):
            distribution = (diagonal * x).clamp_min(0)
            return (distribution / mass[:, None]).to(matrices.dtype)
    message = (
        f"TokenRank of {len(matrices)} chains was found to {float(bound.max()):.2g} "
        f"only, the tolerance is {tolerance:.2g}; raise it or lower damping"
    )
    raise ConvergenceError(message, x)
