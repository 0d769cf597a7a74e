"""Rows of one chain for some of its states, without its whole matrix."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators import (
    AbstractTransition,
    AttentionTransition,
    as_transition,
    full_precision,
)

_BLOCK = 2**22
"""Numbers in a block of rows."""


def one_chain(chain: Any) -> AbstractTransition:
    """A single chain in float64, all of whose states are live."""
    base = as_transition(chain)
    if base.batch_shape:
        raise ShapeError(f"one chain is needed, but got {base!r}; index it first")
    if base.live is not None:
        if not bool(base.live.all()):
            message = (
                f"{base!r} has padding, which is no state: restrict the chain to its "
                "live states first, chain.restrict(chain.live)"
            )
            raise ArgumentError(message)
        (base,) = base.chains()
    return base.to(torch.float64)


def row_blocks(
    chain: AbstractTransition, states: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Rows of some states, block by block: places among them, and (r, n) rows.

    Attention is never stored; any other chain is, once.
    """
    dense = None if isinstance(chain, AttentionTransition) else chain.to_dense()
    size = max(1, _BLOCK // chain.n_states)
    for first in range(0, len(states), size):
        part = slice(first, first + size)
        if dense is not None:
            yield part, dense[states[part]]
        else:
            yield part, _checked(_attention_rows(chain, states[part]), states[part])


@full_precision
def _attention_rows(chain: Any, states: Tensor) -> Tensor:
    scores = (chain.q[states] * chain.scale) @ chain.k.mT
    mask = chain.mask
    if mask is not None:
        mask = mask[states if mask.shape[-2] > 1 else slice(None)]
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        else:
            top = mask.amax(-1, keepdim=True)
            scores = scores + (mask - top.masked_fill(top.isinf(), 0)).to(scores)
    if chain.causal:
        later = torch.arange(chain.n_states, device=states.device) > states[:, None]
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(-1)


def _checked(rows: Tensor, states: Tensor) -> Tensor:
    bad = ~rows.isfinite().all(-1)
    if bool(bad.any()):
        message = (
            f"state {int(states[bad][0])} can go nowhere: its row is fully masked, or "
            "its scores overflow; drop masked tokens with chain.restrict"
        )
        raise NotStochasticError(message)
    return rows
