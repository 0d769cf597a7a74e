"""TokenRank: how important every token is to the whole attention."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.errors import ShapeError
from attnchain.markov import Direction, Stationary, oriented, stationary
from attnchain.operators import AbstractTransition, Damped, as_transition

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnchain.capturing import TokenGrid

_BLOCK = 64
"""Tokens looked at together."""


@dataclass(frozen=True, eq=False)
class TokenRank(Stationary):
    """Global importance of the tokens, and how well it is known.

    It is the stationary distribution of the damped chain in its direction, with all
    that `attnchain.markov.Stationary` says about one: `distribution`, the certified
    `error_bound`, `residual`, `iterations`, `products` and `outcome`.

    Attributes:
        direction: "incoming" or "outgoing".
        damping: Probability of following attention rather than jumping.
        absorbing: Tokens that an undamped walk cannot leave in some chain, as the first
            one under a causal mask, or the first of each document packed into a row:
            they take all incoming rank as damping goes to 1. Then damp more, drop them
            with `restrict` before ranking, or rank "outgoing".
    """

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
    absorbing = _absorbing(chain)
    return TokenRank(
        **vars(found), direction=direction, damping=damping, absorbing=absorbing
    )


@torch.no_grad()
def _absorbing(chain: AbstractTransition) -> tuple[int, ...]:
    """Tokens where a walk stays for ever, in some chain of the batch."""
    n, batch = chain.n_states, chain.batch_shape
    live = torch.ones(n).bool() if chain.live is None else chain.live
    # A one-hot row gives a value of its own back; few others do, by chance.
    values = torch.arange(n, dtype=torch.float64).mul(math.sqrt(5)).frac()
    values = values.to(dtype=chain.dtype, device=chain.device)
    near = (chain.pull(values) - values).abs() < 1e-5
    near &= (live & (live.sum(-1, keepdim=True) > 1)).to(near.device)
    some = near.view(-1, n).any(0).nonzero()[:, 0]
    found: list[int] = []
    for block in some.split(_BLOCK) if len(some) else ():
        starts = torch.nn.functional.one_hot(block, n).to(values)
        moved = chain.push(starts.expand(*batch, -1, -1)) != 0
        stays = ~(moved & (starts == 0)).any(-1) & near[..., block]
        found += block[stays.reshape(-1, len(block)).any(0)].tolist()
    return tuple(found)
