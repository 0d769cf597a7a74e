"""TokenRank: how important every token is to the whole attention."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.errors import ShapeError
from attnchain.markov import Direction, Outcome, oriented, stationary
from attnchain.operators import AbstractTransition, Damped, as_transition

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnchain.capturing import TokenGrid


@dataclass(frozen=True, eq=False)
class TokenRank:
    """Global importance of the tokens, and how well it is known.

    Attributes:
        distribution: Importance of every token, `(*batch, n)`, float64, sum 1.
        error_bound: Certified bound on its L1 error, `(*batch,)`.
        residual: L1 change under one more bounce, `(*batch,)`.
        iterations: Solver iterations, `(*batch,)`.
        products: Products with the attention matrix or its transpose, `(*batch,)`.
        outcome: How the solver ended.
        direction: "incoming" or "outgoing".
        damping: Probability of following attention rather than jumping.
        absorbing: The first token, where an undamped walk cannot leave it, as under a
            causal mask: it takes all incoming rank as damping goes to 1. Then damp
            more, drop it with `restrict` before ranking, or rank "outgoing".
    """

    distribution: Float[Tensor, "*batch n"]
    error_bound: Float[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]
    iterations: Int[Tensor, "*batch"]
    products: Int[Tensor, "*batch"]
    outcome: Outcome
    direction: Direction
    damping: float
    absorbing: tuple[int, ...]

    def top(self, count: int) -> Int[Tensor, "*batch count"]:
        """Indices of the most important tokens, the first one first."""
        return self.distribution.topk(min(count, self.distribution.shape[-1])).indices

    def summary(self) -> str:
        """Direction, damping and how well it is known, in one line."""
        worst = float(self.error_bound.max())
        return (
            f"TokenRank, {self.direction}, damping {self.damping}: L1 error at most "
            f"{worst:.0e} (certified)"
        )

    def facts(self) -> dict[str, Any]:
        """The same as numbers by name, as JSON takes them."""
        return {
            "direction": self.direction,
            "damping": self.damping,
            "error_bound": self.error_bound.tolist(),
            "iterations": self.iterations.tolist(),
        }

    def plot(self, grid: "TokenGrid", *, ax: "Axes | None" = None) -> "Axes":
        """Draws the rank of one chain as a map; 1 is the mean over the patches.

        Args:
            grid: Layout of the tokens.
            ax: Matplotlib axes to draw into; new ones by default.

        Returns:
            The axes.

        Raises:
            ShapeError: The result is a batch.
        """
        from attnchain.plot import plot_map

        if self.distribution.ndim > 1:
            message = "plot draws one chain; this TokenRank is a batch of them"
            raise ShapeError(message)
        shares = grid.to_map(self.distribution)
        return plot_map(
            shares / shares.mean(),
            ax=ax,
            title=f"TokenRank, {self.direction}",
            label="times the mean patch",
        )


def token_rank(
    transition: AbstractTransition | Tensor,
    *,
    damping: float = 0.99,
    direction: Direction = "incoming",
    personalization: Float[Tensor, "*batch n"] | None = None,
    tolerance: float = 1e-6,
) -> TokenRank:
    r"""Importance of tokens as the stationary vector of attention (PageRank).

    With $T = \alpha P + (1 - \alpha) \mathbf 1 v^\top$:

    * "incoming": $\pi = \pi T$, where attention arrives in the long run; its first
      bounce from a token is row select, from the uniform vector the column sum.
    * "outgoing": the stationary vector of T with columns normalised to one,
      $C_{ji} = T_{ij} / \sum_l T_{lj}$, where it comes from; its first bounce from a
      token is column select.

    Args:
        transition: Attention as one chain or a batch, or a stored matrix.
        damping: alpha in (0, 1]; 1 asks for the undamped chain, which must be
            irreducible.
        direction: "incoming" or "outgoing".
        personalization: The distribution v jumped to; uniform by default.
        tolerance: Largest certified L1 error accepted.

    Returns:
        `TokenRank`.

    Raises:
        ReducibleChainError: damping = 1 and the chain is reducible, as causal
            attention is: damp it, drop the first token, or read "outgoing" damped.
        ConvergenceError: The tolerance was not reached; carries what was.
        ToleranceError: Rounding alone exceeds the tolerance.
        ArgumentError: Damping outside (0, 1] or an unknown direction.
        NotStochasticError: The personalization is no distribution.

    Sources:
        Erel et al., arXiv 2507.17657; the outgoing construction (damp, then
        column-normalise) follows its released code.

    Example:
        >>> import torch
        >>> web = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]])
        >>> rank = token_rank(web, damping=0.85)
        >>> rank.distribution
        tensor([0.2148, 0.3974, 0.3878], dtype=torch.float64)
        >>> bool(rank.error_bound < 1e-6)
        True
    """
    chain = as_transition(transition)
    damped = Damped(chain, damping, personalization)
    found = stationary(oriented(damped, direction), tolerance=tolerance)
    absorbing = (0,) if _absorbs_first(chain) else ()
    facts = {field.name: getattr(found, field.name) for field in fields(found)}
    return TokenRank(**facts, direction=direction, damping=damping, absorbing=absorbing)


def _absorbs_first(chain: AbstractTransition) -> bool:
    """Whether a walk that reaches the first token stays there, in every chain."""
    first = torch.zeros(chain.n_states, dtype=chain.dtype, device=chain.device)
    first[0] = 1
    return chain.n_states > 1 and not bool(chain.push(first)[..., 1:].any())
