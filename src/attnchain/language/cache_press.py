"""Scores by which kvpress keeps keys and values, without eager attention."""

# pyright: reportUnknownMemberType=false

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnchain.checks import check_choice, check_fraction, check_whole
from attnchain.errors import ShapeError, UnsupportedModelError
from attnchain.operators import AttentionTransition
from attnchain.optional import require
from attnchain.ranking import token_rank
from attnchain.readouts import column_sums, received

KeyScore = Literal["received", "column_sum", "token_rank"]


def token_rank_press(
    compression_ratio: float = 0.5,
    *,
    by: KeyScore = "token_rank",
    damping: float = 0.85,
    first: int = 4,
) -> Any:
    """A press of kvpress that scores every key head by its own attention's chain.

    Attention is read from queries and keys in tiles: the model may run with fused
    attention, and nothing of the size n x n is kept.

    Args:
        compression_ratio: Share of keys and values to remove after the prompt.
        by: "token_rank": incoming TokenRank without the first token. "column_sum": the
            score of H2O. "received": mean attention from the queries that may look, as
            kvpress' `ObservedAttentionPress` has it from eager attention; where it was
            measured it kept most. The mean over the query heads that share a key head.
        damping: Of TokenRank.
        first: Tokens at the start that are kept in any case.

    Returns:
        A `kvpress.ScorerPress`: `with press(model): ...`.

    Raises:
        MissingExtraError: kvpress is not installed. It needs transformers before 5.3,
            so an environment of its own: `pip install "attnchain[kvpress]"`.
        ArgumentError: An option is out of range.
    """
    check_choice(by, get_args(KeyScore), "by")
    check_fraction(damping, "damping")
    check_whole(first, "first", least=0)
    press: Any = require("kvpress", extra="kvpress", feature="token_rank_press")

    class TokenRankPress(press.ScorerPress):
        """Keeps the keys that the chain of each key head scores highest."""

        def score(  # noqa: PLR0917  (kvpress' own signature)
            self,
            module: nn.Module,
            hidden_states: Tensor,
            keys: Tensor,
            values: Tensor,
            attentions: Tensor | None,
            kwargs: dict[str, Any],
        ) -> Float[Tensor, "batch key_heads n"]:
            """What kvpress asks of a press, see its `ScorerPress`."""
            del values, attentions
            queries = _queries(module, hidden_states, kwargs["position_embeddings"])
            scores = key_scores(
                queries, keys, scale=_scale(module), by=by, damping=damping
            )
            top = scores.amax(-1, keepdim=True) + 1
            scores[..., :first] = top.expand(-1, -1, scores[..., :first].shape[-1])
            return scores

    return TokenRankPress(compression_ratio)


def key_scores(
    queries: Float[Tensor, "batch heads n d"],
    keys: Float[Tensor, "batch key_heads n d"],
    *,
    scale: float,
    by: KeyScore = "received",
    damping: float = 0.85,
) -> Float[Tensor, "batch key_heads n"]:
    """How much each key of causal attention is worth keeping.

    Args:
        queries: After rotary embedding.
        keys: Likewise; each is shared by consecutive query heads.
        scale: Factor of the scores before softmax.
        by: See `token_rank_press`.
        damping: Of TokenRank.

    Returns:
        Mean over the query heads that share a key head, in float32 or float64.

    Raises:
        ShapeError: Queries and keys are of different tokens, as with a cache.

    Example:
        >>> q = k = torch.zeros(1, 1, 2, 4)
        >>> key_scores(q, k, scale=0.5, by="column_sum")
        tensor([[[1.5000, 0.5000]]])
    """
    n_heads, n = queries.shape[1:3]
    n_key_heads = keys.shape[1]
    if keys.shape[2] != n:
        message = (
            f"expected as many keys as queries, those of a whole prompt, but there are "
            f"{keys.shape[2]} keys and {n} queries"
        )
        raise ShapeError(message)
    repeated = keys.repeat_interleave(n_heads // n_key_heads, dim=1)
    chain = AttentionTransition(queries, repeated, scale=scale, causal=True)
    scores = _SCORES[by](chain, damping)
    return scores.unflatten(1, (n_key_heads, -1)).mean(2)


def _ranks(chain: AttentionTransition, damping: float) -> Tensor:
    """Incoming TokenRank; that of the first token, where all walks end, is 0."""
    if chain.n_states == 1:
        return chain.q.new_zeros(chain.q.shape[:-1], dtype=chain.dtype)
    rest = chain.restrict(slice(1, None))
    ranks = token_rank(rest, damping=damping).distribution
    return nn.functional.pad(ranks, (1, 0)).to(chain.dtype)


_SCORES: dict[str, Any] = {
    "received": lambda chain, _: received(chain),
    "column_sum": lambda chain, _: column_sums(chain),
    "token_rank": _ranks,
}


def _scale(module: Any) -> float:
    return getattr(module, "scaling", None) or module.head_dim**-0.5


def _window(config: Any) -> int | None:
    return getattr(config, "sliding_window", None)


def _queries(
    module: Any, hidden_states: Tensor, rotary: tuple[Tensor, Tensor]
) -> Float[Tensor, "batch heads n d"]:
    """Queries of a Llama-like module, turned as it turns them."""
    n, given = hidden_states.shape[1], rotary[0].shape[1]
    window = getattr(module, "sliding_window", _window(module.config))
    if window is not None and n > window:
        message = (
            f"{type(module).__name__} sees {window} tokens back, and the prompt has "
            f"{n}: its attention is not the causal chain that is scored here"
        )
        raise UnsupportedModelError(message)
    if n != given:
        message = (
            f"expected the whole prompt at once, but {n} tokens of it came with the "
            f"positions of {given}; press it without kvpress' ChunkPress or the like"
        )
        raise ShapeError(message)
    utils: Any = require("kvpress.utils", extra="kvpress", feature="token_rank_press")
    queries = utils.get_prerope_query_states(module, hidden_states)
    cos, sin = (part.unsqueeze(1) for part in rotary)
    left, right = queries.chunk(2, dim=-1)
    return queries * cos + torch.cat((-right, left), -1) * sin
