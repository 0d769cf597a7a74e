"""The interface of every chain: a transition that can be pushed and pulled."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_floating
from attnchain.errors import ArgumentError, ShapeError
from attnchain.operators.indexing import BatchIndex
from attnchain.operators.kernels.prepared import Side
from attnchain.operators.memory import announce_storage
from attnchain.operators.precision import full_precision

if TYPE_CHECKING:
    from attnchain.operators.stacked import Stacked

_Parts = tuple[object, ...]
Target = torch.dtype | torch.device | str
"""What a transition can be moved to: another precision or another device."""
Axes = tuple[str, ...] | None
"""Names of the batch dimensions, where they are known."""


class AbstractTransition(ABC):
    r"""A batch of transition matrices P of which only products are needed.

    P is row-stochastic: $P_{ij} \ge 0$, $\sum_j P_{ij} = 1$; P[i, j] is the
    probability of stepping from state i (query token) to state j (key token).

    A leaf class supplies `_part`, which tells dtype and device, the two primitives
    `_push` and `_pull` on vectors of shape `(*batch, r, n)`, `_select` for batch
    indexing and `to`. Everything else is derived here. Transitions are frozen.

    Attributes:
        axes: What the batch dimensions are: ("input", "head") for captured attention;
            None where nobody said.
        live: States that are no padding, `(*batch, n)`; None where all are.
    """

    axes: Axes = None
    live: Tensor | None = None

    @property
    @abstractmethod
    def _part(self) -> "Tensor | AbstractTransition":
        """What it is made of, or the first of several: they share dtype and device."""

    @property
    def shape(self) -> torch.Size:
        """`(*batch, n, n)`: as the part's, unless a leaf class says otherwise."""
        return self._part.shape

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the products: float32 or float64."""
        return self._part.dtype

    @property
    def device(self) -> torch.device:
        """Device the products run on."""
        return self._part.device

    @abstractmethod
    def _push(self, vectors: Tensor) -> Tensor:
        """Vectors of shape (*batch, r, n) times P."""

    @abstractmethod
    def _pull(self, observables: Tensor) -> Tensor:
        """P times observables, both of shape (*batch, r, n)."""

    @abstractmethod
    def _select(self, index: BatchIndex) -> "AbstractTransition":
        """Transition over the indexed batch dimensions."""

    @abstractmethod
    def to(self, target: Target) -> Self:
        """The same transition in another precision or on another device."""

    @property
    def batch_shape(self) -> torch.Size:
        """Batch dimensions: `shape` without the two state axes."""
        return self.shape[:-2]

    @property
    def n_states(self) -> int:
        """Number of states n."""
        return self.shape[-1]

    @property
    def row_error(self) -> float:
        """Bound on the relative error of P's entries and products from rounding.

        It bounds the L1 error of every row, since rows sum to one.
        """
        return (self.n_states + 4) * torch.finfo(self.dtype).eps

    @property
    def requires_grad(self) -> bool:
        """Whether a tensor this transition is made of tracks gradients."""
        return any(_tracks(part) for part in tuple(vars(self).values()))

    @property
    def tracks_gradients(self) -> bool:
        """Whether what is computed now has to be differentiable in those tensors."""
        return torch.is_grad_enabled() and self.requires_grad

    @property
    def never_stores(self) -> bool:
        """Whether a part was asked for without a stored matrix (backend "tiled")."""
        return any(_never_stores(part) for part in tuple(vars(self).values()))

    @full_precision
    def push(self, vector: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""One bounce: where probability goes.

        $(v P)_j = \sum_i v_i P_{ij}$

        Args:
            vector: Row vectors in the last axis. With b batch dimensions: `(n,)` is
                shared by all chains, b + 1 dimensions are one vector per chain,
                b + 2 dimensions `(*batch, r, n)` are r vectors per chain.

        Returns:
            `(*batch, n)` or `(*batch, r, n)`, in the transition's dtype and device.

        Raises:
            ShapeError: The last axis is not n, or the batch axes do not fit.

        Example:
            >>> import torch
            >>> from attnchain import as_transition
            >>> two = as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
            >>> two.push(torch.tensor([1.0, 0.0]))
            tensor([0.9000, 0.1000])
        """
        rows, single = self._as_rows(vector, "vector")
        pushed = self._push(rows)
        return pushed.squeeze(-2) if single else pushed

    @full_precision
    def pull(self, observable: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""Expected value of an observable one bounce later.

        $(P f)_i = \sum_j P_{ij} f_j$

        Args:
            observable: Values of the states in the last axis; shapes as for `push`.

        Returns:
            Expected values, of the shapes that `push` returns.

        Raises:
            ShapeError: As for `push`.

        Example:
            >>> import torch
            >>> from attnchain import as_transition
            >>> uneven = as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
            >>> uneven.pull(torch.tensor([1.0, 0.0]))
            tensor([0.9000, 0.5000])
        """
        rows, single = self._as_rows(observable, "observable")
        pulled = self._pull(rows)
        return pulled.squeeze(-2) if single else pulled

    def multiply(
        self, vectors: Float[Tensor, "..."], side: Side
    ) -> Float[Tensor, "..."]:
        """`push` of row vectors or `pull` of observables, by the name of the side."""
        return self.push(vectors) if side == "push" else self.pull(vectors)

    @full_precision
    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The matrices themselves: n * n numbers for each chain of the batch.

        Warns:
            MaterializationWarning: They exceed the memory budget.
        """
        announce_storage(self.shape, self.dtype, self.device)
        identity = torch.eye(self.n_states, dtype=self.dtype, device=self.device)
        return self._push(identity.expand(self.shape))

    def chains(self) -> Iterator["AbstractTransition"]:
        """Every single chain of the batch, in flattened order."""
        if not self.batch_shape:
            yield self
            return
        for place in product(*map(range, self.batch_shape)):
            yield self[place]

    def apart(self, values: Float[Tensor, "..."]) -> list[Tensor]:
        """Values of the states, `(n,)` or `(*batch, n)`, as those of each chain."""
        whole = values.expand(*self.batch_shape, self.n_states)
        return list(whole.reshape(-1, self.n_states))

    def together(self, values: Sequence[Tensor]) -> Tensor:
        """Values of each chain's states, `(..., n)`, as those of the batch."""
        return torch.stack(list(values)).view(*self.batch_shape, *values[0].shape)

    def restricted_to(self, keep: Tensor) -> "AbstractTransition | None":
        """Its own form on some states; None where `Restricted` has to do."""
        return None

    def __getitem__(self, index: BatchIndex) -> "AbstractTransition":
        if not self.batch_shape:
            message = f"{self!r} has no batch dimension to index"
            raise ShapeError(message)
        try:
            return self._select(index)
        except (IndexError, TypeError) as error:
            message = f"index {index!r} does not fit batch {tuple(self.batch_shape)}"
            raise ShapeError(message) from error

    def __iter__(self) -> Iterator["AbstractTransition"]:
        return (self[place] for place in range(len(self)))

    def __len__(self) -> int:
        if not self.batch_shape:
            message = f"{self!r} is a single chain and has no length"
            raise ShapeError(message)
        return self.batch_shape[0]

    def __repr__(self) -> str:
        name = type(self).__name__
        precision = str(self.dtype).removeprefix("torch.")
        return f"{name}(shape={tuple(self.shape)}, {precision}, {self.device})"

    @classmethod
    def _unchecked(cls, **parts: object) -> Self:
        """A transition of parts that were checked before."""
        chain = object.__new__(cls)
        for name, part in parts.items():
            object.__setattr__(chain, name, part)
        return chain

    def _as_rows(self, vector: Tensor, name: str) -> tuple[Tensor, bool]:
        """Brings a vector to (*batch, r, n); tells whether r was added here."""
        batch, n = self.batch_shape, self.n_states
        if not batch and self._is_own(vector):  # the inner loops of solvers
            return (vector[None], True) if vector.ndim == 1 else (vector, False)
        check_floating(vector, name)
        single = vector.ndim in (1, len(batch) + 1)
        rows = vector.unsqueeze(-2) if single else vector
        fits = (
            vector.ndim in (1, len(batch) + 1, len(batch) + 2)
            and vector.shape[-1] == n
            and all(
                have in (1, want)
                for have, want in zip(rows.shape[:-2], batch, strict=False)
            )
        )
        if not fits:
            message = (
                f"{name} of shape {tuple(vector.shape)} does not fit {self!r}: "
                f"expected ({n},), {(*batch, n)} or {(*batch, 'r', n)}"
            )
            raise ShapeError(message)
        rows = rows.to(dtype=self.dtype, device=self.device)
        return rows.expand(*batch, *rows.shape[-2:]), single

    def _is_own(self, vector: object) -> bool:
        """Whether (n,) or (r, n) numbers are as the products take them."""
        return (
            isinstance(vector, Tensor)
            and vector.ndim in (1, 2)
            and vector.shape[-1] == self.n_states
            and vector.dtype == self.dtype
            and vector.device == self.device
        )


class AbstractTwoSided(AbstractTransition):
    """A transition whose push and pull are one program that is told its side."""

    @abstractmethod
    def _product(self, vectors: Tensor, side: Side) -> Tensor:
        """The primitive of a side, of vectors of shape (*batch, r, n)."""

    def _push(self, vectors: Tensor) -> Tensor:
        return self._product(vectors, "push")

    def _pull(self, observables: Tensor) -> Tensor:
        return self._product(observables, "pull")


class AbstractDerived(AbstractTransition):
    """A transition made from one base, in the same precision and on its device.

    Made of a `Stacked` batch it is a `Stacked` batch: of one for each member.
    """

    base: AbstractTransition

    def __new__(
        cls, base: AbstractTransition | None = None, *args: Any, **kwargs: Any
    ) -> Self:
        if isinstance(base, AbstractTransition) and base.live is not None:
            made = cls._of_stacked(cast("Stacked", base), *args, **kwargs)
            return cast("Self", made)
        return super().__new__(cls)

    @classmethod
    def _of_stacked(
        cls, stacked: "Stacked", *args: Any, **kwargs: Any
    ) -> AbstractTransition:
        """The same of every member."""

        def of_member(member: AbstractTransition) -> AbstractTransition:
            return cls(member, *args, **kwargs)

        return stacked.each(of_member)

    @property
    def axes(self) -> Axes:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the base."""
        return self.base.axes

    def __post_init__(self) -> None:
        check_transition(self.base, "base")

    @property
    def _part(self) -> AbstractTransition:
        return self.base

    @property
    def row_error(self) -> float:
        """The base's own, and that of one more product."""
        return self.base.row_error + super().row_error


def _tracks(part: object) -> bool:
    if isinstance(part, Tensor | AbstractTransition):
        return part.requires_grad
    return isinstance(part, tuple) and any(map(_tracks, cast("_Parts", part)))


def _never_stores(part: object) -> bool:
    if isinstance(part, AbstractTransition):
        return part.never_stores
    return isinstance(part, tuple) and any(map(_never_stores, cast("_Parts", part)))


def check_transition(chain: object, name: str = "transition") -> None:
    """Raises ArgumentError unless the argument is a transition.

    Args:
        chain: What was given.
        name: What the caller calls it.

    Raises:
        ArgumentError: It is something else.
    """
    if not isinstance(chain, AbstractTransition):
        message = (
            f"{name} must be a transition, but is {type(chain).__name__}; make one of "
            "a stored matrix with attnchain.as_transition"
        )
        raise ArgumentError(message)
