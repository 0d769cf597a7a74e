"""Massive tokens, and attention without them (arXiv 2507.16018).

From the formulas of Lu, Liao, Wang, Yang, Shi, *Artifacts and Attention Sinks*.
`massive_tokens` finds tokens by norm; `masked` takes attention to them away before the
softmax, `Sunk` after it. The paper's Fast Nystrom attention is in `fast_nystrom`.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.checks import check_finite, check_floating
from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators import AbstractTransition, AttentionTransition, kept_states


def massive_tokens(features: Float[Tensor, "n d"]) -> Int[Tensor, " m"]:
    """Tokens whose norm stands apart: those above the largest gap of log norms.

    Args:
        features: Token features of one layer, for example its input; no zero rows.

    Returns:
        Their indices, by decreasing norm. There is always a largest gap: look at how
        many tokens lie above it before trusting it.

    Raises:
        ShapeError: Fewer than two tokens.
        NotStochasticError: A row is zero or not finite.

    Example:
        >>> import torch
        >>> massive_tokens(torch.tensor([[1.0], [90.0], [2.0], [100.0]]))
        tensor([3, 1])
    """
    check_floating(features, "features")
    if features.ndim != 2 or len(features) < 2:
        message = f"features must be (n, d), n >= 2, but are {tuple(features.shape)}"
        raise ShapeError(message)
    check_finite(features, "features")
    norms = features.double().norm(dim=-1)
    if bool((norms == 0).any()):
        message = f"token {int(norms.argmin())} has norm zero, whose logarithm has none"
        raise NotStochasticError(message)
    sizes, order = norms.log().sort(descending=True, stable=True)
    return order[: 1 + int((sizes[:-1] - sizes[1:]).argmax())]


def masked(chain: AttentionTransition, tokens: Tensor) -> AttentionTransition:
    """The chain that never enters some tokens: their scores are -inf.

    Rows are renormalised over the other keys, their own included, so the tokens
    become transient: they can be left, not entered. `restrict` drops them instead.

    Args:
        chain: Heads over attention.
        tokens: Indices or mask of the tokens.

    Returns:
        A chain over the same states; the same as conditioning each step on not
        entering the tokens.

    Raises:
        ArgumentError: The tokens are no states, or all of them.
    """
    shut = kept_states(tokens, chain.n_states, "tokens")
    if len(shut) == chain.n_states:
        raise ArgumentError("no token is left to step to; keep at least one open")
    allowed = torch.ones(1, chain.n_states, dtype=torch.bool, device=chain.device)
    allowed[0, shut.to(chain.device)] = False
    mask = chain.mask
    if mask is None:
        mask = allowed
    elif mask.dtype == torch.bool:
        mask = mask & allowed
    else:
        mask = mask.masked_fill(~allowed, -torch.inf)
    return replace(chain, mask=mask)


@dataclass(frozen=True, eq=False)
class Sunk:
    """A chain killed on entering some tokens: their probabilities become zero.

    The variant after the softmax: rows are not renormalised, so mass is lost and this
    is no `AbstractTransition`. `lost` says how much.

    Args:
        base: The chain.
        tokens: Indices or mask of the tokens.

    Attributes:
        lost: Probability of entering one of the tokens in one step, `(*batch, n)`.

    Raises:
        ArgumentError: The tokens are no states.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> chain = as_transition(torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
        >>> Sunk(chain, torch.tensor([1])).push(torch.tensor([1.0, 0.0]))
        tensor([0.7500, 0.0000])
    """

    base: AbstractTransition
    tokens: Tensor
    lost: Float[Tensor, "*batch n"] = field(init=False)

    def __post_init__(self) -> None:
        tokens = kept_states(self.tokens, self.base.n_states, "tokens").to(
            self.base.device
        )
        object.__setattr__(self, "tokens", tokens)
        entered = torch.zeros(self.base.n_states, dtype=self.base.dtype)
        entered[tokens.cpu()] = 1
        object.__setattr__(self, "lost", self.base.pull(entered))

    def push(self, vector: Tensor) -> Tensor:
        """One step of what is still alive; the shapes of `AbstractTransition.push`."""
        return self.base.push(vector).index_fill(-1, self.tokens, 0)

    def pull(self, observable: Tensor) -> Tensor:
        """Expected value after a step, zero for what was killed."""
        return self.base.pull(observable.index_fill(-1, self.tokens, 0))
