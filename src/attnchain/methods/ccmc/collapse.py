r"""How the tokens of generated text collapse to few, and how fast.

While text grows from length t, its frequencies m hardly change over many tokens, so
tokens are drawn from the stationary distribution $\pi(m)$ of the context-conditioned
chain. The number $n_j = m_j t$ of each token then grows by
$d \ln n_j / d \ln t = a_j(m)$ with the exponents of `growth_exponents`; this is the
limit of many tokens (derived here, not in the paper).
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_distribution
from attnchain.errors import ArgumentError, ConvergenceError, ShapeError
from attnchain.markov import stationary
from attnchain.operators import DenseTransition, as_transition


def growth_exponents(
    chain: Any, frequencies: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    r"""How the count of every token grows with the length of the text: $n_j \sim t^a$.

    $a_j = \sum_i \pi_i P_{ij} / (P m)_i$, with $\pi$ the stationary distribution of
    the chain conditioned on m. Tokens of m keep their share where a = 1. Where all
    other tokens have a < 1 their shares die out as $t^{a_j - 1}$: m is a winner, or a
    set of winners. For one winner w, $a_j = P_{wj} / P_{ww}$: w wins if it is its own
    likeliest next token. Where all rows of P are one r, $n_j \sim n_w^{r_j / r_w}$.

    Args:
        chain: The base chain P over the vocabulary, or its matrix.
        frequencies: m; tokens of share zero are those asked about.

    Returns:
        One exponent for each token, in float64.

    Raises:
        ShapeError: A batch, or frequencies of another vocabulary.
        NotStochasticError: m is no distribution.
        ReducibleChainError: The tokens of m do not all lead to each other.

    Example:
        >>> P = torch.tensor([[0.6, 0.4], [0.6, 0.4]], dtype=torch.float64)
        >>> growth_exponents(P, torch.tensor([1.0, 0.0]))
        tensor([1.0000, 0.6667], dtype=torch.float64)
    """
    matrix = _matrix(chain)
    check_distribution(frequencies, len(matrix), "frequencies")
    if frequencies.ndim != 1:
        shape = tuple(frequencies.shape)
        raise ShapeError(f"frequencies must be ({len(matrix)},), but are {shape}")
    return _exponents(matrix, frequencies.detach().double().cpu())


def expected_frequencies(
    chain: Any, counts: Float[Tensor, " n"], lengths: Float[Tensor, " k"]
) -> Float[Tensor, "k n"]:
    r"""Token frequencies of long generated text, in the limit of many tokens.

    Solves $dm / d \ln t = \pi(m) - m$ from the counts of a prompt.

    Args:
        chain: The base chain P over the vocabulary, or its matrix.
        counts: How often each token occurs in the prompt, >= 0.
        lengths: Lengths of the whole text, increasing, none below that of the prompt.

    Returns:
        Frequencies at each length, in float64. Tokens absent from the prompt stay 0.

    Raises:
        ShapeError: A batch, or counts of another vocabulary.
        ArgumentError: Counts below zero or without a token, or lengths that shrink.
        ConvergenceError: The equation could not be solved to 1e-8.

    Example:
        >>> P = torch.tensor([[0.6, 0.4], [0.6, 0.4]], dtype=torch.float64)
        >>> expected_frequencies(P, torch.tensor([1.0, 1.0]), torch.tensor([2, 12.0]))
        tensor([[0.5000, 0.5000],
                [0.6667, 0.3333]], dtype=torch.float64)
    """
    from scipy.integrate import solve_ivp

    matrix = _matrix(chain)
    start, times = _checked_start(counts, lengths, len(matrix))
    inside = (start > 0).nonzero()[0]
    small = matrix[inside][:, inside]

    def slope(_: float, logarithms: np.ndarray) -> np.ndarray:
        shares = np.exp(logarithms - logarithms.max())
        held = torch.from_numpy(shares / shares.sum())
        return _exponents(small, held).numpy() - 1

    begin = np.log(start[inside] / start.sum())
    span = (np.log(start.sum()), np.log(times[-1]))
    solved = solve_ivp(slope, span, begin, "LSODA", np.log(times), rtol=1e-8, atol=1e-8)
    if not solved.success:
        message = f"frequencies could not be followed: {solved.message}"
        raise ConvergenceError(message, solved)
    shares = np.exp(solved.y.T)
    found = torch.zeros(len(times), len(matrix), dtype=torch.float64)
    found[:, inside] = torch.from_numpy(shares / shares.sum(-1, keepdims=True))
    return found


def _exponents(matrix: Tensor, shares: Tensor) -> Tensor:
    """The formula; a row of the matrix may be scaled by anything."""
    inside = (shares > 0).nonzero()[:, 0]
    rows = matrix[inside]
    offered = rows @ shares
    own = DenseTransition(rows[:, inside] * shares[inside] / offered[:, None])
    return (stationary(own).distribution.double() / offered) @ rows


def _matrix(chain: Any) -> Float[Tensor, "n n"]:
    base = as_transition(chain)
    if base.batch_shape or base.live is not None:
        raise ShapeError(f"one chain over the vocabulary is needed, but got {base!r}")
    return base.to(torch.float64).to_dense().detach().cpu()


def _checked_start(
    counts: Tensor, lengths: Tensor, n: int
) -> tuple[np.ndarray, np.ndarray]:
    start = torch.as_tensor(counts).detach().double().cpu().numpy()
    if start.shape != (n,):
        raise ShapeError(f"counts must be ({n},), but are {start.shape}")
    if not (np.isfinite(start).all() and (start >= 0).all() and start.sum() > 0):
        message = f"counts must be finite, >= 0 and not all zero, but are {counts}"
        raise ArgumentError(message)
    times = torch.as_tensor(lengths).detach().double().cpu().numpy()
    rising = times.ndim == 1 and len(times) and (np.diff(times) > 0).all()
    if not rising or times[0] < start.sum() or not np.isfinite(times[-1]):
        message = (
            "lengths must increase from the length of the prompt, "
            f"{start.sum():g}, on, but are {lengths}"
        )
        raise ArgumentError(message)
    return start, times
