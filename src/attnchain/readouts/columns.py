"""How much attention tokens get: column sums, once or as a text grows."""

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.errors import ShapeError
from attnchain.operators import AbstractTransition, check_transition, is_causal


def column_sums(transition: AbstractTransition) -> Float[Tensor, "*batch n"]:
    r"""Attention that each token gets from all others, $c_j = \sum_i P_{ij}$.

    It is n times one incoming bounce from everywhere, and the score by which H2O
    keeps tokens in a cache.

    Args:
        transition: One chain or a batch.

    Returns:
        One number for each token, 0 at padding; they sum to the number of tokens.

    Cost:
        One product, O(n d) memory.

    Sources:
        Zhang et al., H2O, arXiv 2306.14048.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> column_sums(as_transition(torch.tensor([[1.0, 0.0], [0.5, 0.5]])))
        tensor([1.5000, 0.5000])
    """
    check_transition(transition)
    n, dtype, device = transition.n_states, transition.dtype, transition.device
    return transition.push(torch.ones(n, dtype=dtype, device=device))


def received(transition: AbstractTransition) -> Float[Tensor, "*batch n"]:
    r"""Mean attention that each token gets from those that may look at it.

    $c_j$ over n, or over n - j (the token itself and all later ones) where attention
    is causal: early tokens are not favoured for being seen by more.

    Args:
        transition: One chain or a batch, without padding.

    Returns:
        One number in [0, 1] for each token.

    Raises:
        ShapeError: Some chain has padding.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> received(as_transition(torch.tensor([[1.0, 0.0], [0.5, 0.5]])))
        tensor([0.7500, 0.5000])
    """
    sums = column_sums(transition)
    if transition.live is not None:
        message = f"received needs chains without padding, but got {transition!r}"
        raise ShapeError(f"{message}; take each of its .chains()")
    n = transition.n_states
    lookers = torch.full((n,), n, dtype=sums.dtype, device=sums.device)
    if is_causal(transition):
        lookers = torch.arange(n, 0, -1, dtype=sums.dtype, device=sums.device)
    return sums / lookers


def continued_sums(
    sums: Float[Tensor, "*batch n"], rows: Float[Tensor, "*batch new m"]
) -> Float[Tensor, "*batch m"]:
    """Column sums of a text that has grown: the running form, for decoding.

    Args:
        sums: Of the n tokens before.
        rows: Attention of the new tokens to all m tokens, as
            `record.probabilities()` of a pass with a cache.

    Returns:
        The column sums of the whole text, of which the older tokens come first.

    Raises:
        ShapeError: There are fewer keys than sums, or the batches differ.

    Example:
        >>> import torch
        >>> before = torch.tensor([1.5, 0.5])
        >>> continued_sums(before, torch.tensor([[0.25, 0.25, 0.5]]))
        tensor([1.7500, 0.7500, 0.5000])
    """
    fits = rows.ndim == sums.ndim + 1 and rows.shape[:-2] == sums.shape[:-1]
    if not fits or rows.shape[-1] < sums.shape[-1]:
        message = (
            f"rows must be (*batch, new, m) with m at least the {sums.shape[-1]} "
            f"tokens of sums {tuple(sums.shape)}, but are {tuple(rows.shape)}"
        )
        raise ShapeError(message)
    grown = rows.shape[-1] - sums.shape[-1]
    return torch.nn.functional.pad(sums, (0, grown)) + rows.sum(-2)
