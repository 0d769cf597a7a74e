"""One number for every row of a chain, from queries and keys where there are some."""

from collections.abc import Callable

import torch
from torch import Tensor

from attnchain.operators import (
    AbstractTransition,
    AttentionTransition,
    Stacked,
    check_transition,
)


def rowwise(
    transition: AbstractTransition,
    of_attention: Callable[[AttentionTransition], Tensor],
    of_matrix: Callable[[Tensor], Tensor],
) -> Tensor:
    """Numbers (*batch, n), 0 at padding.

    Args:
        transition: One chain or a batch.
        of_attention: What needs no matrix.
        of_matrix: The same of stored matrices.
    """
    check_transition(transition)
    if isinstance(transition, AttentionTransition):
        return of_attention(transition)
    if isinstance(transition, Stacked):
        rows = [rowwise(one, of_attention, of_matrix) for one in transition.members]
        result = torch.zeros(transition.live.shape, dtype=transition.dtype)
        result = result.to(transition.device)
        result[transition.live] = torch.cat(rows)
        return result
    return of_matrix(transition.to_dense())


def diagonal(transition: AbstractTransition) -> Tensor:
    """Probability of every state to stay, (*batch, n)."""

    def own(matrix: Tensor) -> Tensor:
        return matrix.diagonal(dim1=-2, dim2=-1)

    return rowwise(transition, AttentionTransition.diagonal, own)
