"""Multi-bounce attention: where a walker is after a number of bounces."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_distribution
from attnchain.errors import ShapeError
from attnchain.operators import AbstractTransition, ColumnNormalized

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
        ShapeError: A token outside the chain, an empty set, a negative number of
            bounces, or an unknown direction.
        NotStochasticError: The start is not a distribution, or (outgoing) nothing
            ever looks at some token.

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
    if bounces != int(bounces) or bounces < 0:
        raise ShapeError(f"bounces must be a whole number >= 0, but is {bounces!r}")
    walker = starting_distribution(transition, start)
    chain = oriented(transition, direction)
    walker = walker.expand(*chain.batch_shape, chain.n_states)
    visited = [walker]
    for _ in range(bounces):
        walker = chain.push(walker)
        walker = walker / walker.sum(-1, keepdim=True)
        if all_bounces:
            visited.append(walker)
    return torch.stack(visited) if all_bounces else walker


def oriented(transition: AbstractTransition, direction: str) -> AbstractTransition:
    """The chain itself (incoming) or its column-normalised form (outgoing)."""
    if direction == "incoming":
        return transition
    if direction == "outgoing":
        return ColumnNormalized(transition)
    message = f"direction must be 'incoming' or 'outgoing', but is {direction!r}"
    raise ShapeError(message)


def starting_distribution(transition: AbstractTransition, start: Start) -> Tensor:
    """A token, a set of tokens or a distribution as a distribution (..., n)."""
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
        chosen = torch.atleast_1d(torch.as_tensor(start, device=transition.device))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(message) from error
    if chosen.dtype == torch.bool and chosen.shape == (n,):
        chosen = chosen.nonzero()[:, 0]
    whole = chosen.ndim == 1 and not chosen.is_floating_point()
    if not whole or chosen.dtype == torch.bool or chosen.numel() == 0:
        raise ShapeError(message)
    if bool((chosen < 0).any()) or bool((chosen >= n).any()):
        outside = f"start names a token outside 0..{n - 1}: {chosen.tolist()}"
        raise ShapeError(outside)
    distribution = torch.zeros(n, dtype=transition.dtype, device=transition.device)
    distribution[chosen] = 1 / chosen.unique().numel()
    return distribution
