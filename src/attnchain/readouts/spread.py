"""How spread attention is: entropies of rows, and ranks of a head."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.operators import AbstractTransition, AttentionTransition, to_scipy
from attnchain.readouts.rowwise import rowwise


def row_entropy(transition: AbstractTransition) -> Float[Tensor, "*batch n"]:
    r"""Entropy of where each token looks, in nats.

    $H_i = -\sum_j P_{ij} \ln P_{ij}$: 0 where a token looks at one token only,
    $\ln n$ where it looks at all n alike. Its exponential is a number of tokens.

    Args:
        transition: One chain or a batch.

    Returns:
        One number for each token, 0 at padding; `.mean(-1)` is that of a head.

    Cost:
        One pass and O(n) memory for captured attention; else the matrix is formed.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> chain = as_transition(torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
        >>> row_entropy(chain)
        tensor([0.6931, 0.0000])
    """
    return rowwise(
        transition,
        AttentionTransition.row_entropy,
        lambda matrix: torch.special.entr(matrix).sum(-1),
    )


def stable_rank(transition: AbstractTransition) -> Float[Tensor, "*batch"]:
    r"""Stable rank $\|P\|_F^2 / \|P\|_2^2$: a rank that rounding does not change.

    Between 1 (all tokens look alike) and n (each at another one).

    Args:
        transition: One chain or a batch.

    Returns:
        One number for each chain.

    Cost:
        One pass, and some tens of products for the largest singular value; O(n d)
        memory for captured attention.

    Sources:
        Rudelson and Vershynin, J. ACM 54 (2007).

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> stable_rank(as_transition(torch.eye(3)))
        tensor(3.)
    """
    squares = rowwise(
        transition,
        AttentionTransition.row_squares,
        lambda matrix: matrix.square().sum(-1),
    )
    largest = [_largest_singular(chain) for chain in transition.chains()]
    top = torch.tensor(largest, dtype=squares.dtype, device=squares.device)
    return squares.sum(-1) / top.view(transition.batch_shape).square()


def _largest_singular(chain: AbstractTransition) -> float:
    """By Lanczos; the whole matrix where it is too small for that."""
    from scipy.sparse.linalg import svds

    if chain.n_states <= 8:
        return float(torch.linalg.matrix_norm(chain.to_dense(), 2))
    wide = to_scipy(chain.to(torch.float64))
    ones = torch.ones(chain.n_states).double().numpy()
    found = cast("Any", svds(wide, k=1, return_singular_vectors=False, v0=ones))
    return float(found[0])


def effective_rank(transition: AbstractTransition) -> Float[Tensor, "*batch"]:
    r"""Number of singular values that count, between 1 and n.

    $\exp\bigl(-\sum_k p_k \ln p_k\bigr)$ with $p_k = \sigma_k / \sum_l \sigma_l$.

    Args:
        transition: One chain or a batch, small enough to store.

    Returns:
        One number for each chain.

    Warns:
        MaterializationWarning: The matrices exceed the memory budget.

    Cost:
        All singular values, n^3; `stable_rank` needs no matrix.

    Sources:
        Roy and Vetterli, EUSIPCO 2007.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> rank = effective_rank(as_transition(torch.full((4, 4), 0.25)))
        >>> round(float(rank), 3)
        1.0
    """
    sizes = torch.linalg.svdvals(transition.to_dense())
    shares = sizes / sizes.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()
