"""Attention that never leaves its group, and how much of a chain stays in groups."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from attnchain.errors import ArgumentError, ShapeError
from attnchain.operators.attention import AttentionTransition
from attnchain.operators.base import AbstractTransition, Target, check_transition
from attnchain.operators.indexing import BatchIndex, batch_select


@dataclass(frozen=True, eq=False)
class Seating:
    """Tokens laid out group by group, every group as long as the largest.

    Attributes:
        labels: Group of each token.
        members: Tokens of each group, n at empty seats.
        seats: Seat of each token, a number in the flattened table of members.
    """

    labels: Int[Tensor, "*batch n"]
    members: Int[Tensor, "*batch groups m"]
    seats: Int[Tensor, "*batch n"]

    @classmethod
    def of(cls, labels: Any, shape: torch.Size, device: torch.device) -> "Seating":
        """The seating by given labels.

        Args:
            labels: Group of each token, of that shape or `(n,)`.
            shape: `(*batch, n)`.
            device: Where the tokens are.

        Raises:
            ShapeError: The labels are no whole numbers of a fitting shape.
            ArgumentError: A group has no member in some chain.
        """
        labels = _checked(labels, shape).to(device)
        sizes = functional.one_hot(labels).sum(-2)
        most = int(sizes.max())
        order = labels.argsort(dim=-1, stable=True)
        by_group = labels.gather(-1, order)
        before = (sizes.cumsum(-1) - sizes).gather(-1, by_group)
        seats = by_group * most + torch.arange(shape[-1], device=device) - before
        table = labels.new_full((*shape[:-1], sizes.shape[-1] * most), shape[-1])
        members = table.scatter(-1, seats, order).unflatten(-1, (-1, most))
        return cls(labels, members, torch.empty_like(order).scatter(-1, order, seats))

    @property
    def taken(self) -> Bool[Tensor, "*batch groups m"]:
        """Seats with a token."""
        return self.members < self.labels.shape[-1]

    def seat(
        self, rows: Float[Tensor, "*batch n d"]
    ) -> Float[Tensor, "*batch groups m d"]:
        """The tokens' rows at their seats, zero at empty ones."""
        empty = self.members.numel() - self.labels.numel()
        return _rows_at(functional.pad(rows, (0, 0, 0, bool(empty))), self.members)

    def rise(
        self, rows: Float[Tensor, "*batch groups m d"]
    ) -> Float[Tensor, "*batch n d"]:
        """Rows at the seats as those of the tokens."""
        return _rows_at(rows.flatten(-3, -2), self.seats)


@dataclass(frozen=True, eq=False, repr=False)
class Grouped(AbstractTransition):
    r"""Attention that never leaves its group: a block-diagonal chain.

    $G_{ij} = P_{ij} / \sum_{l \in g(i)} P_{il}$ for j in the group of i, else 0: each
    step is conditioned on staying. Every group is closed, so 1 is an eigenvalue once
    for each group, and each has its own stationary distribution. Computed as attention
    among the members only: n^2 / groups scores where groups are even.

    Args:
        base: Heads of attention, neither masked nor causal.
        labels: Group of each token, `(n,)` or one for each head; of any sizes.

    Attributes:
        blocks: One chain for each group, `(*batch, groups)`, as long as the largest.

    Raises:
        ArgumentError: Another kind of chain, a masked or causal one, or an empty group.
        ShapeError: The labels are no whole numbers of a fitting shape.

    Example:
        >>> import torch
        >>> zero = torch.zeros(3, 1)
        >>> chain = AttentionTransition(zero, zero)
        >>> Grouped(chain, torch.tensor([0, 0, 1])).to_dense()
        tensor([[0.5000, 0.5000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """

    base: AbstractTransition
    labels: Int[Tensor, "*batch n"]
    blocks: AbstractTransition = field(init=False)
    seating: Seating = field(init=False)

    def __post_init__(self) -> None:
        base = self.base
        heads = isinstance(base, AttentionTransition)
        if not heads or base.mask is not None or base.causal:
            message = (
                "Grouped takes heads of attention, neither masked nor causal, but got "
                f"{base!r}; of other chains Restricted is one group"
            )
            raise ArgumentError(message)
        seating = Seating.of(self.labels, base.shape[:-1], base.device)
        blocks = AttentionTransition(
            seating.seat(base.q),
            seating.seat(base.k),
            scale=base.scale,
            mask=None if bool(seating.taken.all()) else seating.taken[..., None, :],
            backend=base.backend,
        )
        parts = {"labels": seating.labels, "blocks": blocks, "seating": seating}
        for name, part in parts.items():
            object.__setattr__(self, name, part)

    @property
    def axes(self) -> tuple[str, ...] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the base."""
        return self.base.axes

    @property
    def _part(self) -> AbstractTransition:
        return self.base

    @property
    def row_error(self) -> float:
        """That of the blocks; what lies outside them is exactly zero."""
        return self.blocks.row_error

    def to(self, target: Target) -> "Grouped":
        return Grouped(self.base.to(target), self.labels)

    def _push(self, vectors: Tensor) -> Tensor:
        seated = self.seating.seat(vectors.mT).mT
        return self.seating.rise(self.blocks.push(seated).mT).mT

    def _pull(self, observables: Tensor) -> Tensor:
        seated = self.seating.seat(observables.mT).mT
        return self.seating.rise(self.blocks.pull(seated).mT).mT

    def _select(self, index: BatchIndex) -> "Grouped":
        return Grouped(self.base[index], batch_select(self.labels, index, 1))


def kept_mass(
    chain: AbstractTransition, labels: Int[Tensor, "*batch n"]
) -> Float[Tensor, "*batch n"]:
    r"""Probability that a token's step stays in its group: $\sum_{j \in g(i)} P_{ij}$.

    Args:
        chain: One chain or a batch.
        labels: Group of each token, `(n,)` or one for each chain.

    Returns:
        One number in [0, 1] for each token; of random equal groups about 1 / groups.

    Raises:
        ShapeError: The labels are no whole numbers of a fitting shape.
        ArgumentError: A group has no member.

    Cost:
        One pull of as many observables as there are groups.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> chain = as_transition(torch.tensor([[0.5, 0.4, 0.1]]).expand(3, 3))
        >>> kept_mass(chain, torch.tensor([0, 0, 1]))
        tensor([0.9000, 0.9000, 0.1000])
    """
    check_transition(chain, "chain")
    labels = Seating.of(labels, chain.shape[:-1], chain.device).labels
    inside = functional.one_hot(labels).mT.to(chain.dtype)
    return chain.pull(inside).gather(-2, labels[..., None, :]).squeeze(-2)


def _checked(labels: Any, shape: torch.Size) -> Int[Tensor, "*batch n"]:
    """Labels for each chain, int64, once every group has a member."""
    whole = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    given = isinstance(labels, Tensor) and labels.dtype in whole
    if not given or labels.shape not in (shape, shape[-1:]):
        tensor = isinstance(labels, Tensor)
        have = f"{labels.dtype} {tuple(labels.shape)}" if tensor else repr(labels)
        message = (
            f"labels must be whole numbers of shape {tuple(shape)} or ({shape[-1]},), "
            f"but are {have}"
        )
        raise ShapeError(message)
    labels = labels.long()
    low, count = int(labels.min()), int(labels.max()) + 1
    if low < 0 or count > shape[-1]:
        message = f"labels must lie in 0..{shape[-1] - 1}: {low} to {count - 1} came"
        raise ArgumentError(message)
    empty = (functional.one_hot(labels).sum(-2) == 0).nonzero()
    if len(empty):
        message = (
            f"every group 0..{count - 1} needs a member in every chain, but group "
            f"{int(empty[0, -1])} has none; number the groups without gaps"
        )
        raise ArgumentError(message)
    return labels.expand(shape)


def _rows_at(rows: Tensor, places: Tensor) -> Tensor:
    """Rows (*batch, n, d) at places (*batch, ...)."""
    batch, (n, width) = rows.shape[:-2], rows.shape[-2:]
    offsets = torch.arange(batch.numel(), device=places.device)[:, None] * n
    flat = (places.reshape(batch.numel(), -1) + offsets).flatten()
    return rows.reshape(-1, width).index_select(0, flat).view(*places.shape, width)
