"""Multi-bounce attention: where a walker is after a number of bounces."""

# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_choice, check_distribution, check_whole
from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators import (
    AbstractTransition,
    ColumnNormalized,
    Stacked,
    check_transition,
)

Direction = Literal["incoming", "outgoing"]
Start = int | Sequence[int] | Tensor


def propagate(
    transition: AbstractTransition,
    start: Start,
    bounces: int,
    *,
    direction: Direction = "incoming",
    all_bounces: bool = False,
) -> Float[Tensor, "..."]:
    r"""Distribution over tokens after some bounces: multi-bounce attention.

    $v_{n+1} = v_n P$ (incoming) or $v_{n+1} = v_n C$ (outgoing), where
    $C_{ji} = P_{ij} / \sum_l P_{lj}$ is the column-normalised chain.

    * "incoming" follows attention: the first bounce from token i is *row select*,
      where i looks; the limit is the incoming TokenRank.
    * "outgoing" goes against it: the first bounce from token i is *column select*
      scaled to sum one, who looks at i; the limit is the outgoing TokenRank.

    One incoming bounce from the uniform distribution is the *column sum* over n.

    Args:
        transition: One chain or a batch; damp it first if it may be reducible.
        start: A token index; several indices or a boolean mask `(n,)` (uniform on
            that set); or a distribution `(n,)` or `(*batch, n)`.
        bounces: Number of steps, at least 0.
        direction: Along attention ("incoming") or against it ("outgoing").
        all_bounces: Return every bounce, the start first.

    Returns:
        `(*batch, n)`, or `(bounces + 1, *batch, n)` with `all_bounces`.

    Raises:
        ArgumentError: No chain, a token outside it, an empty set, no whole number of
            bounces, or an unknown direction.
        NotStochasticError: The start is not a distribution, or (outgoing) nothing
            ever looks at some token, as far as float64 can tell.

    Sources:
        arXiv 2507.17657. Its released code names the two directions the other way
        round in its comments.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> chain = as_transition(torch.tensor([[0.0, 1.0], [0.5, 0.5]]))
        >>> propagate(chain, 0, 2)
        tensor([0.5000, 0.5000])
    """
    check_whole(bounces, "bounces", least=0)
    walker = starting_distribution(transition, start)
    chain = oriented(transition, direction)
    walker = walker.to(chain.dtype).expand(*chain.batch_shape, chain.n_states)
    visited = [walker]
    for _ in range(bounces):
        walker = chain.push(walker)
        walker = walker / walker.sum(-1, keepdim=True)
        if all_bounces:
            visited.append(walker)
    found = torch.stack(visited) if all_bounces else walker
    return found.to(transition.dtype)


def oriented(transition: AbstractTransition, direction: str) -> AbstractTransition:
    """The chain itself (incoming) or its column-normalised form (outgoing).

    Args:
        transition: A chain or a batch.
        direction: "incoming" or "outgoing".

    Raises:
        ArgumentError: The direction is neither.
        NotStochasticError: Nobody looks at some token: its column has no sum.
    """
    check_transition(transition)
    check_choice(direction, get_args(Direction), "direction")
    return transition if direction == "incoming" else _column_normalised(transition)


def _column_normalised(transition: AbstractTransition) -> AbstractTransition:
    """The column-normalised form, in double precision where single underflows."""
    if isinstance(transition, Stacked):
        return transition.each(_column_normalised)
    with suppress(NotStochasticError):
        turned = ColumnNormalized(transition)
        if bool(_normalisable(turned).all()):
            return turned
    turned = ColumnNormalized(transition.to(torch.float64))
    if not bool(_normalisable(turned).all()):
        state = int(torch.nonzero(~_normalisable(turned))[0, -1])
        message = (
            f"state {state} is stepped to with a probability below what float64 holds "
            "to its leading digits: its column cannot be normalised. Damp the chain "
            "first, or drop the state with Restricted"
        )
        raise NotStochasticError(message)
    return turned


def _normalisable(chain: ColumnNormalized) -> Tensor:
    """Columns whose entries have not lost digits to underflow, (*batch, n)."""
    limits = torch.finfo(chain.dtype)
    return chain.column_sums.detach() > limits.tiny / limits.eps


def starting_distribution(transition: AbstractTransition, start: Start) -> Tensor:
    """A token, a set of tokens or a distribution as a distribution (..., n).

    Args:
        transition: A chain or a batch.
        start: A token, several (evenly), a mask, or a distribution.

    Raises:
        ShapeError: It has another shape.
        ArgumentError: It names no token of the chain, or padding.
    """
    check_transition(transition)
    distribution = _as_distribution(transition, start)
    live = transition.live
    if live is not None and bool((distribution * ~live).any()):
        message = "start is on a token that is padding in some chain of the batch"
        raise ArgumentError(message)
    return distribution


def _as_distribution(transition: AbstractTransition, start: Start) -> Tensor:
    n, batch = transition.n_states, transition.batch_shape
    message = (
        f"start must be a token index, a non-empty set of tokens, a mask ({n},), or a "
        f"distribution ({n},) or {(*batch, n)}, but got {start!r}"
    )
    if isinstance(start, Tensor) and start.is_floating_point():
        check_distribution(start, n, "start")
        if start.shape[:-1] not in (torch.Size(), batch):
            raise ShapeError(message)
        return start.to(dtype=transition.dtype, device=transition.device)
    try:
        given = torch.as_tensor(start, device=transition.device)
        chosen = cast("Tensor", torch.atleast_1d(given))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ArgumentError(message) from error
    if chosen.dtype == torch.bool and chosen.shape == (n,):
        chosen = chosen.nonzero()[:, 0]
    number = chosen.is_floating_point() or chosen.is_complex()
    whole = chosen.ndim == 1 and not number and chosen.dtype != torch.bool
    if not whole or chosen.numel() == 0:
        raise ArgumentError(message)
    if bool((chosen < 0).any()) or bool((chosen >= n).any()):
        outside = f"start names a token outside 0..{n - 1}: {chosen.tolist()}"
        raise ArgumentError(outside)
    distribution = torch.zeros(n, dtype=transition.dtype, device=transition.device)
    distribution[chosen] = 1 / chosen.unique().numel()
    return distribution
