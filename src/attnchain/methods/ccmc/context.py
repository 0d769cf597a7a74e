"""The next token of one attention layer, as a chain reweighted by its prompt."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.checks import check_count, check_floating, check_whole
from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators import (
    AbstractTransition,
    AttentionTransition,
    Conditioned,
    as_transition,
)

_DRAWN = 4096
"""Random numbers drawn at once for each run."""


def token_chain(
    embeddings: Float[Tensor, "n d"], weights: Float[Tensor, "d d"]
) -> AttentionTransition:
    r"""The base chain of a layer: $P_{ij} \propto \exp(e_j^\top W e_i)$.

    Its states are the tokens of the vocabulary; the matrix is never needed whole.

    Args:
        embeddings: One row $e_i$ for each token.
        weights: W, keys and queries in one matrix; the scale of the scores is in it.

    Returns:
        The chain over the vocabulary.

    Raises:
        ShapeError: The weights are not (d, d).

    Example:
        >>> token_chain(torch.eye(2), torch.tensor([[0.0, 0.0], [1.0986, 0.0]])).push(
        ...     torch.tensor([1.0, 0.0])
        ... )
        tensor([0.2500, 0.7500])
    """
    check_floating(embeddings, "embeddings")
    check_floating(weights, "weights")
    width = embeddings.shape[-1] if embeddings.ndim == 2 else None
    if tuple(weights.shape) != (width, width):
        message = (
            "embeddings must be (n, d) and weights (d, d), but have shapes "
            f"{tuple(embeddings.shape)} and {tuple(weights.shape)}"
        )
        raise ShapeError(message)
    return AttentionTransition(embeddings @ weights.mT, embeddings, scale=1.0)


def token_frequencies(
    prompt: Int[Tensor, "*batch length"], n_tokens: int
) -> Float[Tensor, "*batch n"]:
    """The share of every token of the vocabulary in a prompt.

    Args:
        prompt: Token numbers, one prompt or a batch of one length.
        n_tokens: Size of the vocabulary.

    Returns:
        Shares in float64, each row summing to one.

    Raises:
        ArgumentError: A token is not in the vocabulary, or the prompt is empty.

    Example:
        >>> token_frequencies(torch.tensor([0, 2, 2, 0]), 3)
        tensor([0.5000, 0.0000, 0.5000], dtype=torch.float64)
    """
    return torch.from_numpy(token_counts(prompt, n_tokens)) / prompt.shape[-1]


def token_counts(prompt: Any, n_tokens: int, name: str = "prompt") -> np.ndarray:
    """How often every token occurs along the last axis, in float64."""
    check_whole(n_tokens, "n_tokens", least=2)
    check_tokens(prompt, n_tokens, name)
    flat = prompt.reshape(-1, prompt.shape[-1]).cpu().numpy().astype(np.int64)
    rows = np.arange(len(flat))[:, None] * n_tokens
    counts = np.bincount((rows + flat).ravel(), minlength=len(flat) * n_tokens)
    return counts.reshape(*prompt.shape[:-1], n_tokens).astype(float)


def check_tokens(tokens: Any, n_tokens: int, name: str) -> None:
    """Raises ArgumentError unless there are tokens, all of the vocabulary."""
    whole = isinstance(tokens, Tensor) and not (
        tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool
    )
    if not whole or tokens.ndim == 0 or tokens.numel() == 0:
        given = f"{tokens.dtype} {tuple(tokens.shape)}" if whole else type(tokens)
        message = (
            f"{name} must be a tensor of one or more token numbers, but is {given}"
        )
        raise ArgumentError(message)
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most >= n_tokens:
        message = (
            f"{name} must hold tokens 0..{n_tokens - 1}, but has one of "
            f"{least if least < 0 else most}"
        )
        raise ArgumentError(message)


def context_conditioned(chain: Any, frequencies: Float[Tensor, "..."]) -> Conditioned:
    r"""The chain of the next token given the prompt's token frequencies.

    $R_{ij} = m_j P_{ij} / \sum_k m_k P_{ik}$, by `operators.Conditioned`: row i is
    the next token after a prompt with frequencies m whose last token is i. Tokens
    that are not in the prompt are never next. It is a chain for a *fixed* m only:
    text that is generated changes m, and is no Markov chain on tokens (`generate`).

    If P is reversible with respect to pi, then so is R with respect to
    $\pi_i m_i (P m)_i$.

    Args:
        chain: The base chain P over the vocabulary, or its matrix.
        frequencies: m, as `token_frequencies` gives it.

    Returns:
        The chain, made of products with P; its matrix is not formed.

    Raises:
        ShapeError: The frequencies are of another vocabulary.
        NotStochasticError: They are no distribution, or a token never leads to any
            token of the prompt (by the first product).

    Example:
        >>> P = torch.tensor([[0.6, 0.4], [0.6, 0.4]], dtype=torch.float64)
        >>> m = token_frequencies(torch.tensor([0, 1, 1, 1]), 2)
        >>> context_conditioned(P, m).to_dense()
        tensor([[0.3333, 0.6667],
                [0.3333, 0.6667]], dtype=torch.float64)
    """
    return Conditioned(as_transition(chain), frequencies)


def next_token(chain: Any, prompt: Int[Tensor, " length"]) -> Float[Tensor, " n"]:
    """The distribution of the token after a prompt.

    Args:
        chain: The base chain P over the vocabulary, or its matrix; no batch.
        prompt: Token numbers; the last one is the query.

    Returns:
        One probability for each token, in the chain's precision.

    Raises:
        ArgumentError: The prompt holds what is no token.
        ShapeError: The chain is a batch, or the prompt is.
    """
    base = _single(chain)
    if isinstance(prompt, Tensor) and prompt.ndim > 1:
        raise ShapeError(f"prompt must be (length,), but is {tuple(prompt.shape)}")
    given = context_conditioned(base, token_frequencies(prompt, base.n_states))
    last = torch.zeros(base.n_states, dtype=base.dtype)
    last[int(prompt[-1])] = 1
    return given.push(last)


def generate(
    chain: Any,
    prompt: Int[Tensor, "*runs length"],
    steps: int,
    *,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*runs steps"]:
    """Tokens drawn one after the other, each from all that came before.

    Every drawn token is added to the prompt, so frequencies change as text grows.

    Args:
        chain: The base chain P over n tokens, or its matrix; no batch.
        prompt: What text begins with; one row for each independent run.
        steps: Number of tokens to draw.
        generator: Source of randomness; torch's own by default.

    Returns:
        The drawn tokens, without the prompt.

    Raises:
        ArgumentError: No token, or one that is not in the vocabulary; steps below 1.
        ShapeError: The chain is a batch.
        NotStochasticError: No token of the prompt can follow its last one.

    Cost:
        O(n) for each token of each run; the matrix is stored.
    """
    base = _single(chain)
    check_count(steps, "steps", low=1, high=2**31, meaning="tokens to draw")
    counts = token_counts(prompt, base.n_states).reshape(-1, base.n_states)
    last = prompt.reshape(len(counts), -1)[:, -1].cpu().numpy()
    matrix = base.to(torch.float64).to_dense().detach().cpu().numpy()
    tokens = np.empty((len(counts), steps), dtype=np.int64)
    runs = np.arange(len(counts))
    for step, drawn in enumerate(_uniform(steps, len(runs), generator)):
        reached = (counts * matrix[last]).cumsum(-1)
        if not (reached[:, -1] > 0).all():
            _refuse_dead_end(last, reached[:, -1])
        last = (reached <= (drawn * reached[:, -1])[:, None]).sum(-1)
        counts[runs, last] += 1
        tokens[:, step] = last
    return torch.from_numpy(tokens).view(*prompt.shape[:-1], steps)


def _uniform(
    steps: int, runs: int, generator: torch.Generator | None
) -> Iterator[np.ndarray]:
    """A number in [0, 1) for each run, at every step."""
    for begin in range(0, steps, _DRAWN):
        size = (min(_DRAWN, steps - begin), runs)
        yield from torch.rand(size, dtype=torch.float64, generator=generator).numpy()


def _single(chain: Any) -> AbstractTransition:
    base = as_transition(chain)
    if base.batch_shape or base.live is not None:
        raise ShapeError(f"one chain over the vocabulary is needed, but got {base!r}")
    return base


def _refuse_dead_end(last: np.ndarray, mass: np.ndarray) -> None:
    token = int(last[int((mass <= 0).argmax())])
    message = (
        f"no token of the text so far can follow token {token}: its row of the chain "
        "is zero there; begin with a prompt that holds one of its next tokens"
    )
    raise NotStochasticError(message)
