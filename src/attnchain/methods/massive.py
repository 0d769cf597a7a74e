"""Massive tokens, and attention without them (arXiv 2507.16018).

From the formulas of Lu, Liao, Wang, Yang, Shi, *Artifacts and Attention Sinks*.
`massive_tokens` finds tokens by norm; `masked` takes attention to them away before the
softmax. The paper's Fast Nystrom attention is in `fast_nystrom`.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.checks import check_finite, check_floating
from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators import AttentionTransition, kept_states


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
