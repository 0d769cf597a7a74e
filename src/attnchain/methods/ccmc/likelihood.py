r"""The base chain back from text: the maximum of its likelihood.

After a prompt with counts n and last token i, token j comes with probability
$n_j P_{ij} / \sum_k n_k P_{ik}$. The negative log-likelihood is convex in ln P, and one
problem for each row. It is solved by Newton's method, until the step that is left is
short against the standard errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from warnings import warn

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.checks import check_count, check_whole
from attnchain.errors import (
    ArgumentError,
    AssumptionWarning,
    ConvergenceError,
    NotStochasticError,
    ShapeError,
)
from attnchain.methods.ccmc.context import check_tokens, token_counts
from attnchain.operators import DenseTransition

TOLERANCE: Final = 1e-6
"""Longest step left at the end, in standard errors along it."""
_ITERATIONS: Final = 100


@dataclass(frozen=True)
class FittedChain:
    """A base chain estimated from text.

    Attributes:
        matrix: P, `(n, n)` in float64. Rows that the text does not determine are nan.
        standard_errors: Of the entries of P by the observed information, for many
            samples. Nan where an entry is 0 or 1: a token that was offered and never
            came has no error by it.
        samples: How many next tokens each row was estimated from.
        loss: Mean negative log-likelihood of the determined rows' samples, in nats.
        steps_left: The Newton step left at the end for each row, in standard errors
            along it: how far the answer is from the maximum. Nan where nothing is.
        undetermined: Why a row is nan, for each such row.
    """

    matrix: Float[Tensor, "n n"]
    standard_errors: Float[Tensor, "n n"]
    samples: Int[Tensor, " n"]
    loss: float
    steps_left: Float[Tensor, " n"]
    undetermined: dict[int, str]

    @property
    def transition(self) -> DenseTransition:
        """The chain.

        Raises:
            NotStochasticError: The text does not determine all its rows.
        """
        if self.undetermined:
            row, reason = next(iter(self.undetermined.items()))
            message = (
                f"{len(self.undetermined)} of {len(self.matrix)} rows are not "
                f"determined by the text, the first for token {row}: {reason}; give "
                "more text, or read the other rows of `matrix`"
            )
            raise NotStochasticError(message)
        return DenseTransition(self.matrix)


def fit_prompts(
    prompts: Int[Tensor, "samples length"] | Sequence[Int[Tensor, " length"]],
    following: Int[Tensor, " samples"],
    n_tokens: int,
) -> FittedChain:
    """The base chain by maximum likelihood from many prompts and their next tokens.

    Args:
        prompts: One row for each sample, or texts of different lengths. The last
            token of each is the query.
        following: The token that came next.
        n_tokens: Size of the vocabulary.

    Returns:
        The estimate, with standard errors. Its error falls as samples^-1/2.

    Raises:
        ArgumentError: No token, one that is not in the vocabulary, or a next token
            that is not in its prompt: the model gives it probability zero.
        ShapeError: Not one next token for each prompt.
        ConvergenceError: Newton's method did not end.

    Warns:
        AssumptionWarning: Some rows are not determined: never a last token, tokens
            never offered after it, never together, or always chosen over others.

    Example:
        >>> prompts = torch.tensor([[0, 1, 1], [0, 0, 1]]).repeat(2, 1)
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     fit = fit_prompts(prompts, torch.tensor([1, 0, 0, 1]), 2)
        >>> fit.matrix[1], fit.undetermined
        (tensor([0.5000, 0.5000], dtype=torch.float64), {0: 'it is never a last token'})
    """
    if isinstance(prompts, Tensor):
        if prompts.ndim != 2:
            message = f"prompts must be (samples, length), not {tuple(prompts.shape)}"
            raise ShapeError(message)
        counts = token_counts(prompts, n_tokens, "prompts")
        last = prompts[:, -1].cpu().numpy()
    else:
        rows = [token_counts(prompt, n_tokens, "prompts") for prompt in prompts]
        if not rows or any(row.ndim != 1 for row in rows):
            raise ShapeError("prompts must be one or more texts of shape (length,)")
        counts, last = np.stack(rows), np.array([int(p[-1]) for p in prompts])
    check_tokens(following, n_tokens, "following")
    if tuple(following.shape) != (len(counts),):
        message = (
            f"following must be ({len(counts)},), one token for each prompt, but is "
            f"{tuple(following.shape)}"
        )
        raise ShapeError(message)
    return _fit(last, counts, following.cpu().numpy())


def fit_trajectory(
    tokens: Int[Tensor, " length"], n_tokens: int, *, prompt: int
) -> FittedChain:
    """The base chain by maximum likelihood from one long text.

    Every token after the prompt is a sample, with all tokens before it as its prompt.
    Text collapses to few tokens (`collapse`), so that rows of the others are seen
    rarely and stay uncertain however long it is: read `standard_errors`.

    Args:
        tokens: The text.
        n_tokens: Size of the vocabulary.
        prompt: How many tokens at its beginning were given.

    Returns:
        The estimate, with standard errors.

    Raises:
        ArgumentError: A token that is not in the vocabulary, a prompt that leaves no
            token, or a token that has not occurred before: the model cannot say it.
        ShapeError: The text is no row of tokens.
        ConvergenceError: Newton's method did not end.

    Warns:
        AssumptionWarning: Some rows are not determined.

    Cost:
        `length` times `n_tokens` numbers.
    """
    check_whole(n_tokens, "n_tokens", least=2)
    check_tokens(tokens, n_tokens, "tokens")
    if tokens.ndim != 1:
        raise ShapeError(f"tokens must be (length,), but are {tuple(tokens.shape)}")
    check_count(
        prompt, "prompt", low=1, high=len(tokens) - 1, meaning="tokens that were given"
    )
    text = tokens.cpu().numpy()
    counts = np.zeros((len(text), n_tokens))
    counts[np.arange(len(text)), text] = 1
    np.cumsum(counts, 0, out=counts)
    return _fit(text[prompt - 1 : -1], counts[prompt - 1 : -1], text[prompt:])


def _fit(last: np.ndarray, counts: np.ndarray, following: np.ndarray) -> FittedChain:
    """All rows, each on the samples whose last token it is."""
    chosen = counts[np.arange(len(counts)), following]
    if not (chosen > 0).all():
        first = int((chosen == 0).argmax())
        message = (
            f"sample {first} is followed by token {int(following[first])}, which its "
            "prompt does not hold: a context-conditioned chain gives it probability "
            "zero; leave such samples out, and say how many they were"
        )
        raise ArgumentError(message)
    n = counts.shape[1]
    matrix, errors = np.full((n, n), np.nan), np.full((n, n), np.nan)
    left, total, used = np.full(n, np.nan), 0.0, 0
    unknown: dict[int, str] = {}
    for row in range(n):
        own = last == row
        offered, next_ones = counts[own], following[own]
        reason = _undetermined(offered, next_ones)
        if reason is not None:
            unknown[row] = reason
            continue
        matrix[row], errors[row], loss, left[row] = _fit_row(offered, next_ones)
        total, used = total + loss * len(offered), used + len(offered)
    if unknown:
        warn(_warning(unknown, n), AssumptionWarning, stacklevel=3)
    samples = torch.from_numpy(np.bincount(last, minlength=n))
    found = (torch.from_numpy(matrix), torch.from_numpy(errors), samples)
    mean = total / used if used else float("nan")
    return FittedChain(*found, mean, torch.from_numpy(left), unknown)


def _warning(unknown: dict[int, str], n: int) -> str:
    row, reason = next(iter(unknown.items()))
    return (
        f"{len(unknown)} of {n} rows are not determined by the text and are nan, the "
        f"first for token {row}: {reason}"
    )


def _undetermined(offered: np.ndarray, following: np.ndarray) -> str | None:
    """Why a row's likelihood has no single finite maximum; None where it has.

    Tokens that were offered and never came are zero. Among the others every one must
    be chosen, through some others, over every other one (Ford, 1957).
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    if not len(offered):
        return "it is never a last token"
    n = offered.shape[1]
    absent = np.flatnonzero(~(offered > 0).any(0))
    if len(absent):
        return f"tokens {_named(absent)} are never in a prompt that ends with it"
    tokens = np.flatnonzero(np.bincount(following, minlength=n))
    over = np.zeros((n, n))
    np.add.at(over, following, offered > 0)
    graph = csr_array(over[np.ix_(tokens, tokens)])
    parts, labels = connected_components(graph, directed=False)
    if parts > 1:
        one, other = tokens[labels == 0], tokens[labels == 1]
        return f"tokens {_named(one)} and {_named(other)} are never offered together"
    parts, labels = connected_components(graph, directed=True, connection="strong")
    if parts > 1:
        return (
            f"of tokens {_named(tokens)} some always came where others were offered "
            "too, so that their likelihood has no finite maximum"
        )
    return None


def _named(tokens: np.ndarray) -> str:
    shown = ", ".join(map(str, tokens[:5].tolist()))
    return f"{shown}, ..." if len(tokens) > 5 else shown


def _fit_row(
    offered: np.ndarray, following: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """A row of P, its standard errors, its mean loss, and the step left."""
    n = offered.shape[1]
    tokens, chosen = np.unique(following, return_inverse=True)
    weights = offered[:, tokens]
    logits, left = _newton(weights, chosen)
    loss, _, hessian = _derivatives(logits, weights, chosen)
    loss -= np.log(weights[np.arange(len(chosen)), chosen]).mean()
    row = np.exp(logits - logits.max())
    row /= row.sum()
    spread = np.diag(row) - np.outer(row, row)
    error = np.full_like(row, np.nan)
    if len(row) > 1:
        covariance = np.linalg.inv(hessian) / len(chosen)
        error = np.sqrt(np.diag(spread[:, 1:] @ covariance @ spread[:, 1:].T))
    found, errors = np.zeros(n), np.full(n, np.nan)
    found[tokens], errors[tokens] = row, error
    return found, errors, float(loss), left


def _newton(weights: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, float]:
    """Logits at the maximum of the likelihood, the first one zero."""
    logits, left = np.zeros(weights.shape[1]), 0.0
    if len(logits) == 1:
        return logits, left
    for _ in range(_ITERATIONS):
        loss, gradient, hessian = _derivatives(logits, weights, chosen)
        step = np.concatenate([[0.0], np.linalg.solve(hessian, -gradient)])
        decrement = max(0.0, float(-gradient @ step[1:]))
        left = float(np.sqrt(len(chosen) * decrement))
        if left <= TOLERANCE:
            return logits + step, left
        length = 1.0
        while (
            length > 1e-9
            and _loss(logits + length * step, weights, chosen)
            > loss - 0.25 * length * decrement
        ):
            length /= 2
        logits = logits + length * step
    message = (
        f"the likelihood's maximum was not reached in {_ITERATIONS} steps of Newton's "
        f"method: the last was {left:.2g} standard errors long; give more text"
    )
    raise ConvergenceError(message, logits)


def _loss(logits: np.ndarray, weights: np.ndarray, chosen: np.ndarray) -> float:
    """Mean negative log-likelihood, but for the logarithms of the counts."""
    top = logits.max()
    return float((np.log(weights @ np.exp(logits - top)) + top - logits[chosen]).mean())


def _derivatives(
    logits: np.ndarray, weights: np.ndarray, chosen: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The loss, its gradient and Hessian in all logits but the first."""
    shares = weights * np.exp(logits - logits.max())
    shares /= shares.sum(-1, keepdims=True)
    expected = shares.mean(0)
    gradient = expected - np.bincount(chosen, minlength=len(logits)) / len(chosen)
    hessian = np.diag(expected) - shares.T @ shares / len(chosen)
    return _loss(logits, weights, chosen), gradient[1:], hessian[1:, 1:]
