"""Single chains as one batch, each on its own states: texts of different lengths."""

# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Self, TypeGuard, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnchain.checks import check_floating
from attnchain.errors import ArgumentError, ShapeError
from attnchain.operators.base import (
    AbstractTransition,
    AbstractTwoSided,
    Axes,
    Side,
    Target,
    check_transition,
)
from attnchain.operators.indexing import (
    BatchIndex,
    batch_select,
    kept_states,
    remaining,
)
from attnchain.operators.memory import announce_storage
from attnchain.operators.precision import full_precision
from attnchain.operators.reweighted import Restricted


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Stacked(AbstractTwoSided):
    r"""A batch put together of single chains, each on the live ones of n states.

    A batch of texts is padded to one length n. Each chain lives on the tokens of its
    own text: padding is no state of it, what is pushed or pulled reads 0 there, and
    rows and columns of padding are 0. Every answer is that of the text alone; values
    of states are put in their places among the n, with 0 at padding. What is derived
    from it (`Damped`, `ColumnNormalized`, ...) is again a `Stacked` of what is
    derived from each chain.

    Args:
        members: The single chains, in the order of the flattened batch.
        live: The states of each: mask `(*batch, n)`.
        axes: Names of the batch dimensions.

    Raises:
        ArgumentError: No chain, or what is no transition.
        ShapeError: A member is a batch, their precision or device differs, or the
            mask does not count their states.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> one, two = torch.ones(1, 1), torch.tensor([[0.9, 0.1], [0.5, 0.5]])
        >>> live = torch.tensor([[False, True], [True, True]])
        >>> texts = Stacked([as_transition(one), as_transition(two)], live)
        >>> texts.push(torch.tensor([0.0, 1.0]))
        tensor([[0.0000, 1.0000],
                [0.5000, 0.5000]])
    """

    members: tuple[AbstractTransition, ...]
    live: Bool[Tensor, "*batch n"]  # pyright: ignore[reportIncompatibleVariableOverride]
    axes: Axes
    _states: tuple[Tensor, ...]

    def __init__(
        self,
        members: Sequence[AbstractTransition],
        live: Bool[Tensor, "*batch n"],
        axes: Axes = None,
    ) -> None:
        _check_members(members)
        live = live.to(members[0].device)
        rows = live.reshape(-1, live.shape[-1])
        states = tuple(row.nonzero()[:, 0] for row in rows)
        counts = [len(own) for own in states]
        if live.dtype != torch.bool or counts != [m.n_states for m in members]:
            message = (
                f"live must be a boolean mask (*batch, n) of the {len(members)} "
                f"chains' {[m.n_states for m in members]} states, but is {live.dtype} "
                f"{tuple(live.shape)} with {counts}"
            )
            raise ShapeError(message)
        parts = {"members": tuple(members), "live": live, "axes": axes}
        for name, part in {**parts, "_states": states}.items():
            object.__setattr__(self, name, part)

    @classmethod
    def joined(
        cls, transitions: Sequence[AbstractTransition], axes: Axes = None
    ) -> Self:
        """Transitions of one shape along a new first batch dimension."""
        members = [member for part in transitions for member in part.chains()]
        masks = [
            torch.ones(part.shape[:-1], dtype=torch.bool, device=part.device)
            if part.live is None
            else part.live
            for part in transitions
        ]
        return cls(members, torch.stack(masks), axes)

    @classmethod
    def restricting(cls, chains: AbstractTransition, live: Tensor) -> Self:
        """Every chain of a batch on states of its own.

        Args:
            chains: A batch.
            live: A mask for each chain, `(*batch, n)`, or for each of the first batch
                dimensions, `(pictures, n)`.

        Raises:
            ShapeError: It is no such mask.
            ArgumentError: It leaves a chain no state.
        """
        whole = _broadcast(live, chains)
        _check_some(whole)
        first = live.shape[:-1]
        members: list[AbstractTransition] = []
        for place in product(*map(range, first)):
            part = chains[place] if place else chains
            members.extend(_on(part, live[place].to(chains.device)).chains())
        return cls(members, whole, chains.axes)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.live.shape, self.live.shape[-1]))

    @property
    def _part(self) -> AbstractTransition:
        return self.members[0]

    @property
    def row_error(self) -> float:
        """The worst member's."""
        return max(member.row_error for member in self.members)

    def chains(self) -> Iterator[AbstractTransition]:
        """The members: single chains of live states only."""
        yield from self.members

    def each(
        self,
        make: Callable[..., AbstractTransition],
        distribution: Float[Tensor, "*batch n"] | None = None,
    ) -> Self:
        """What is made of each chain, on the same states.

        Args:
            make: From a chain on live states to another one on them.
            distribution: One more argument of it, over all states; it is given that
                over the live ones.

        Raises:
            ShapeError: The distribution has another shape.
            ArgumentError: It has mass at padding.
        """
        if distribution is None:
            made = [make(member) for member in self.members]
        else:
            own = self.apart(self._inside(distribution))
            made = [make(*pair) for pair in zip(self.members, own, strict=True)]
        wide = max((one.dtype for one in made), key=lambda dtype: dtype.itemsize)
        return type(self)([one.to(wide) for one in made], self.live, self.axes)

    def _inside(self, distribution: Tensor) -> Tensor:
        """A distribution, once it is known to have no mass at padding."""
        check_floating(distribution, "the distribution")
        shape = tuple(distribution.shape)
        if shape not in ((self.n_states,), tuple(self.live.shape)):
            message = (
                f"a distribution over the states of {self!r} must be "
                f"({self.n_states},) or {tuple(self.live.shape)}, but is {shape}"
            )
            raise ShapeError(message)
        distribution = distribution.to(self.device)
        if bool((distribution * ~self.live).any()):
            message = "a distribution over states has mass at padding of some chain"
            raise ArgumentError(message)
        return distribution

    def restrict(self, keep: Tensor | slice) -> Self:
        """The chains on some states only; padding stays padding.

        Args:
            keep: Mask `(n,)`, indices or a slice: those are all states of the result.
                Or a mask for each chain, `(*batch, n)`, or for each of the first
                batch dimensions, `(pictures, n)`: then n stays.

        Raises:
            ShapeError: It is no such mask.
            ArgumentError: It leaves a chain no state, names one twice or an unknown.
        """
        if for_each(keep):
            live = self.live & _broadcast(keep, self)
            own = self.apart(live)
        else:
            states = indices(keep, self.n_states).to(self.device)
            live = self.live[..., states]
            ranks = self.live.cumsum(-1) - 1
            chosen = ranks[..., states].reshape(-1, len(states))
            rows = live.reshape(-1, len(states))
            own = [rank[row] for rank, row in zip(chosen, rows, strict=True)]
        _check_some(live)
        members = map(_on, self.members, own)
        return type(self)(list(members), live, self.axes)

    def apart(self, values: Float[Tensor, "..."]) -> list[Tensor]:
        whole = values.expand(self.live.shape).reshape(-1, self.n_states)
        return [row[own] for row, own in zip(whole, self._states, strict=True)]

    def together(self, values: Sequence[Tensor]) -> Tensor:
        whole = [
            _spread(value, own, self.n_states)
            for value, own in zip(values, self._states, strict=True)
        ]
        return torch.stack(whole).view(*self.batch_shape, *whole[0].shape)

    def to(self, target: Target) -> Self:
        return type(self)([m.to(target) for m in self.members], self.live, self.axes)

    @full_precision
    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The matrices; rows and columns of padding are 0."""
        announce_storage(self.shape, self.dtype, self.device)
        n = self.n_states
        wide = [
            _spread(_spread(member.to_dense(), own, n).mT, own, n).mT
            for member, own in zip(self.members, self._states, strict=True)
        ]
        return torch.stack(wide).view(self.shape)

    def __repr__(self) -> str:
        counted = f"{int(self.live.sum())} of {self.live.numel()} states live"
        return f"{super().__repr__()[:-1]}, {counted})"

    def _product(self, vectors: Tensor, side: Side) -> Tensor:
        flat = vectors.reshape(len(self.members), *vectors.shape[-2:])
        moved: list[Tensor] = []
        for member, own, rows in zip(self.members, self._states, flat, strict=True):
            move = member.push if side == "push" else member.pull
            moved.append(_spread(move(rows[:, own]), own, self.n_states))
        return torch.stack(moved).view(vectors.shape)

    def _select(self, index: BatchIndex) -> "Stacked":
        order = torch.arange(len(self.members), device=self.live.device)
        places = order.view(self.batch_shape)[index].reshape(-1)
        chosen = cast("list[int]", places.tolist())
        if not chosen:
            raise IndexError(index)
        members = [self.members[place] for place in chosen]
        live = batch_select(self.live, index, 1)
        return Stacked(members, live, remaining(self.axes, index))


def for_each(keep: object) -> TypeGuard[Tensor]:
    """Whether a choice of states is a mask for each chain."""
    return isinstance(keep, Tensor) and keep.dtype == torch.bool and keep.ndim > 1


def _broadcast(live: Tensor, chains: AbstractTransition) -> Tensor:
    """A mask for each of the first batch dimensions as one for each chain."""
    batch, n = chains.batch_shape, chains.n_states
    first = live.shape[:-1]
    fits = live.dtype == torch.bool and live.shape[-1:] == (n,)
    if not fits or first != batch[: len(first)]:
        message = (
            f"keep must be a mask ({n},) or {(*batch, n)}, or one for each of the "
            f"first batch dimensions, but is {live.dtype} of shape {tuple(live.shape)}"
        )
        raise ShapeError(message)
    whole = live.view(*first, *[1] * (len(batch) - len(first)), n)
    return whole.expand(*batch, n).to(chains.device)


def _check_some(live: Tensor) -> None:
    empty = torch.nonzero(~live.any(-1))
    if len(empty):
        place = cast("list[int]", empty[0].tolist())
        message = f"chain {tuple(place)} of the batch is left no state"
        raise ArgumentError(message)


def _check_members(members: Sequence[AbstractTransition]) -> None:
    if not members:
        raise ArgumentError("Stacked needs a list of at least one chain")
    for member in members:
        check_transition(member, "a member of Stacked")
    kinds = {(len(m.batch_shape), m.dtype, m.device) for m in members}
    if len(kinds) > 1 or members[0].batch_shape:
        message = (
            f"members of Stacked must be single chains of one dtype and device, but "
            f"have batch dimensions, dtype and device {sorted(map(str, kinds))}"
        )
        raise ShapeError(message)


def indices(keep: Tensor | slice, n: int) -> Tensor:
    """One choice of states for all chains, as indices."""
    return torch.arange(n)[keep] if isinstance(keep, slice) else kept_states(keep, n)


def _on(chain: AbstractTransition, keep: Tensor) -> AbstractTransition:
    """A chain or batch on some states, in its own form where it has one."""
    if keep.dtype == torch.bool and bool(keep.all()):
        return chain
    own = chain.restricted_to(keep)
    return Restricted(chain, keep) if own is None else own


def _spread(values: Tensor, states: Tensor, n: int) -> Tensor:
    """Values of some states, in the last axis, among those of all: 0 elsewhere."""
    whole = values.new_zeros(*values.shape[:-1], n)
    return whole.index_copy(-1, states, values)
