"""How salient each token is to self-attention: one number a token, one on average."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_fraction, check_number, check_whole
from attnchain.errors import ArgumentError, ShapeError
from attnchain.markov import Direction, mix, oriented, stationary
from attnchain.operators import (
    AbstractTransition,
    Damped,
    DenseTransition,
    fits_budget,
)

Kind = Literal["column_sum", "token_rank", "bounces"]
Heads = Literal["uniform", "lambda2"]


@dataclass(frozen=True)
class Salience:
    r"""Which tokens the attention of a block marks as salient.

    Heads are mixed to one chain P for each picture, with n tokens. Then

    * "column_sum": $\mathbf 1^\top P$, as in self-attention guidance;
    * "token_rank": $n \pi$ with the stationary $\pi$ of the damped chain;
    * "bounces": n times the distribution after some bounces from the uniform one.

    The column sum is the first bounce, TokenRank the limit. "outgoing" does the same
    with the column-normalised chain.

    Args:
        kind: One of the three.
        direction: "incoming" or "outgoing".
        heads: "uniform", or "lambda2" for weights proportional to each head's
            second eigenvalue.
        damping: Probability of following attention, for TokenRank and bounces.
        bounces: How many, for "bounces".
        tolerance: Largest L1 error of TokenRank's distribution.

    Raises:
        ArgumentError: An option is unknown or out of range.

    Sources:
        Hong et al., Improving sample quality of diffusion models using self-attention
        guidance, 2023; Erel et al., arXiv 2507.17657.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> star = torch.tensor([[0.2, 0.8], [0.6, 0.4]]).expand(1, 1, 2, 2)
        >>> Salience("column_sum").of(as_transition(star))
        tensor([[0.8000, 1.2000]])
    """

    kind: Kind = "token_rank"
    direction: Direction = "incoming"
    heads: Heads = "uniform"
    damping: float = 0.99
    bounces: int = 2
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        for name, choices in (
            ("kind", Kind),
            ("direction", Direction),
            ("heads", Heads),
        ):
            given = getattr(self, name)
            if given not in get_args(choices):
                message = f"{name} must be one of {get_args(choices)}, not {given!r}"
                raise ArgumentError(message)
        check_whole(self.bounces, "bounces")
        check_number(self.damping, "damping")
        check_number(self.tolerance, "tolerance")
        check_fraction(self.damping, "damping")
        if not self.tolerance > 0:
            raise ArgumentError(f"tolerance must be > 0, not {self.tolerance!r}")

    def of(self, attention: AbstractTransition) -> Float[Tensor, "pictures n"]:
        """The salience of every token in every picture; its mean is one.

        Args:
            attention: Chains of batch shape (pictures, heads).

        Raises:
            ShapeError: The batch has other axes.
            ArgumentError: Weights by lambda_2, and every lambda_2 is zero.
            ConvergenceError: TokenRank was not found to the tolerance.

        Cost:
            Up to 256 tokens one factorisation a picture; beyond, about 20 products
            a picture.
        """
        if len(attention.batch_shape) != 2:
            message = (
                f"expected chains of batch shape (pictures, heads), but got "
                f"{tuple(attention.batch_shape)}"
            )
            raise ShapeError(message)
        chains = self._mixed(attention)
        if self.kind == "token_rank":
            parts = [self._rank(chain) for chain in chains]
        else:
            parts = [self._bounced(chain) for chain in chains]
        n = attention.n_states
        return n * torch.cat([part.reshape(-1, n) for part in parts])

    def _mixed(self, attention: AbstractTransition) -> list[AbstractTransition]:
        """One chain for each picture: a single batch of matrices where they fit."""
        mixed = [mix(attention[i], self.heads) for i in range(len(attention))]
        if not fits_budget(attention.shape, attention.dtype, attention.device):
            return mixed
        return [DenseTransition.trusted(torch.stack([one.to_dense() for one in mixed]))]

    def _bounced(self, chain: AbstractTransition) -> Tensor:
        n = chain.n_states
        one_step = self.kind == "column_sum"
        if not one_step:
            chain = Damped(chain, self.damping)
        chain = oriented(chain, self.direction)
        shares = torch.full((*chain.batch_shape, n), 1 / n)
        shares = shares.to(dtype=chain.dtype, device=chain.device)
        for _ in range(1 if one_step else self.bounces):
            shares = chain.push(shares)
        return shares

    def _rank(self, chain: AbstractTransition) -> Tensor:
        damped = oriented(Damped(chain, self.damping), self.direction)
        return stationary(damped, tolerance=self.tolerance).distribution.to(chain.dtype)
