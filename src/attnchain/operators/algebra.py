"""Chains made of chains: convex mixtures, products, powers."""

# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self, cast

import torch
from torch import Tensor

from attnchain.checks import check_distribution, check_floating, check_whole
from attnchain.errors import ArgumentError, ShapeError
from attnchain.operators.base import (
    AbstractDerived,
    AbstractTransition,
    AbstractTwoSided,
    Axes,
    Target,
    check_transition,
)
from attnchain.operators.indexing import BatchIndex
from attnchain.operators.kernels.prepared import Side
from attnchain.operators.memory import announce_storage
from attnchain.operators.precision import full_precision, unit_mass


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Mixture(AbstractTwoSided):
    r"""Convex combination of chains: one step in a head drawn by weight.

    $P = \sum_c w_c P_c$. All chains of all components take part, so the heads of
    several layers mix into one single chain; products run over one component at a
    time.

    Args:
        components: Transitions over the same states, batched or not.
        weights: One tensor for each component, shaped like its `batch_shape`; >= 0
            and together summing to one. Kept in float64, divided by their sum.

    Raises:
        ArgumentError: Nothing to mix, or what is no transition or tensor.
        ShapeError: The states differ or the weights do not fit.
        NotStochasticError: The weights are not a distribution.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> stay, swap = torch.eye(2), torch.eye(2).flip(0)
        >>> heads = as_transition(torch.stack([stay, swap]))
        >>> Mixture([heads], [torch.tensor([0.75, 0.25])]).to_dense()
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """

    components: tuple[AbstractTransition, ...]
    weights: tuple[Tensor, ...]

    def __init__(
        self, components: Sequence[AbstractTransition], weights: Sequence[Tensor]
    ) -> None:
        _check_same_states(components, "Mixture")
        for weight in weights:
            check_floating(weight, "weights")
        shapes = [tuple(c.batch_shape) for c in components]
        if [tuple(w.shape) for w in weights] != shapes:
            message = (
                f"weights must have the components' batch shapes {shapes}, but have "
                f"{[tuple(w.shape) for w in weights]}"
            )
            raise ShapeError(message)
        device = components[0].device
        together = torch.cat([w.reshape(-1).to(device) for w in weights])
        check_distribution(together, together.numel(), "weights")
        parts = cast(
            "tuple[Tensor, ...]",
            unit_mass(together).split([w.numel() for w in weights]),
        )
        shares = [part.view(w.shape) for part, w in zip(parts, weights, strict=True)]
        object.__setattr__(self, "components", tuple(components))
        object.__setattr__(self, "weights", tuple(shares))

    @property
    def shape(self) -> torch.Size:
        return self.components[0].shape[-2:]

    @property
    def _part(self) -> AbstractTransition:
        return self.components[0]

    @property
    def row_error(self) -> float:
        """The worst component's, and that of their sum."""
        terms = sum(weight.numel() for weight in self.weights)
        summing = (terms + 4) * torch.finfo(self.dtype).eps
        return max(c.row_error for c in self.components) + summing

    def to(self, target: Target) -> Self:
        components = tuple(component.to(target) for component in self.components)
        device = components[0].device
        weights = tuple(weight.to(device) for weight in self.weights)
        return self._unchecked(components=components, weights=weights)

    @full_precision
    def to_dense(self) -> Tensor:
        """The mixed matrix, summed up from one stored chain at a time."""
        announce_storage(self.shape, self.dtype, self.device)
        singles = chain.from_iterable(part.chains() for part in self.components)
        weights = torch.cat([weight.reshape(-1) for weight in self.weights])
        result = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        for single, weight in zip(singles, weights.to(self.dtype), strict=True):
            result = result.addcmul_(weight, single.to_dense())
        return result

    def _product(self, vectors: Tensor, side: Side) -> Tensor:
        result = torch.zeros_like(vectors)
        for component, weight in zip(self.components, self.weights, strict=True):
            shared = vectors.expand(*component.batch_shape, *vectors.shape)
            flat = component.multiply(shared, side).reshape(-1, *vectors.shape)
            shares = weight.reshape(-1).to(self.dtype)
            summed = cast("Tensor", torch.tensordot(shares, flat, dims=1))
            result = result + summed
        return result

    def _select(self, index: BatchIndex) -> AbstractTransition:
        raise IndexError(index)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Product(AbstractTransition):
    """One bounce through each factor in turn: P = P_1 P_2 ... P_m.

    `push(v)` is ((v P_1) P_2) ...; nested products are flattened.

    Args:
        factors: Transitions with the same states and batch.

    Raises:
        ArgumentError: No factor, or what is no transition.
        ShapeError: Shapes differ.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> swap = as_transition(torch.eye(2).flip(0))
        >>> Product([swap, swap]).to_dense()
        tensor([[1., 0.],
                [0., 1.]])
    """

    factors: tuple[AbstractTransition, ...]

    def __init__(self, factors: Sequence[AbstractTransition]) -> None:
        _check_same_states(factors, "Product")
        if len({factor.shape for factor in factors}) > 1:
            message = (
                "factors of a Product must have one shape, but have "
                f"{[tuple(factor.shape) for factor in factors]}"
            )
            raise ShapeError(message)
        flat: list[AbstractTransition] = []
        for factor in factors:
            flat.extend(factor.factors if isinstance(factor, Product) else [factor])
        object.__setattr__(self, "factors", tuple(flat))

    @property
    def _part(self) -> AbstractTransition:
        return self.factors[0]

    @property
    def axes(self) -> Axes:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the factors."""
        return self.factors[0].axes

    @property
    def row_error(self) -> float:
        """The sum of the factors'."""
        return sum(factor.row_error for factor in self.factors)

    def to(self, target: Target) -> Self:
        return type(self)([factor.to(target) for factor in self.factors])

    def _push(self, vectors: Tensor) -> Tensor:
        for factor in self.factors:
            vectors = factor.push(vectors)
        return vectors

    def _pull(self, observables: Tensor) -> Tensor:
        for factor in reversed(self.factors):
            observables = factor.pull(observables)
        return observables

    def _select(self, index: BatchIndex) -> "Product":
        return Product([factor[index] for factor in self.factors])


@dataclass(frozen=True, eq=False, repr=False)
class Power(AbstractDerived):
    """The same bounce several times: P to the power of `exponent`.

    Args:
        base: The chain.
        exponent: Number of bounces, at least 1.

    Raises:
        ArgumentError: The exponent is not a positive whole number.
    """

    base: AbstractTransition
    exponent: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self.exponent, "exponent")

    @property
    def row_error(self) -> float:
        """That of all bounces."""
        return self.exponent * self.base.row_error

    def to(self, target: Target) -> "Power":
        return Power(self.base.to(target), self.exponent)

    def _push(self, vectors: Tensor) -> Tensor:
        for _ in range(self.exponent):
            vectors = self.base.push(vectors)
        return vectors

    def _pull(self, observables: Tensor) -> Tensor:
        for _ in range(self.exponent):
            observables = self.base.pull(observables)
        return observables

    def _select(self, index: BatchIndex) -> "Power":
        return Power(self.base[index], self.exponent)


def _check_same_states(transitions: Sequence[AbstractTransition], name: str) -> None:
    if not isinstance(cast("object", transitions), Sequence) or not transitions:
        message = f"{name} needs a list of at least one transition"
        raise ArgumentError(message)
    for transition in transitions:
        check_transition(transition, f"a part of a {name}")
        if transition.live is not None:
            message = (
                f"parts of a {name} must have the same states, but {transition!r} has "
                "padding; take each of its .chains(), or attnchain.mix"
            )
            raise ShapeError(message)
    kinds = {(t.n_states, t.dtype, t.device) for t in transitions}
    if len(kinds) > 1:
        message = (
            f"transitions of a {name} must have the same number of states, dtype and "
            f"device, but have {sorted(map(str, kinds))}"
        )
        raise ShapeError(message)
