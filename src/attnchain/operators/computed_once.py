"""Quantities of a chain that are computed at their first use, in any mode of torch."""

from collections.abc import Callable
from functools import cached_property, wraps
from typing import Any, Generic, Self, TypeVar, overload

import torch

from attnchain.operators.indexing import BatchIndex, batch_select
from attnchain.operators.precision import full_precision

Value = TypeVar("Value")


def kept(compute: Callable[[Any], Value]) -> cached_property[Value]:
    """A property computed once, in the modes it can be used under in any other."""

    @full_precision
    @wraps(compute)
    def plainly(chain: Any) -> Value:
        with torch.inference_mode(False), torch.no_grad():
            return compute(chain)

    return cached_property(plainly)


class Derived(Generic[Value]):
    """A quantity of a chain, computed at its first use and kept.

    Where gradients are tracked it is computed anew, so that no graph is kept. What
    was kept goes along when the chain is indexed (`pass_on`).
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self.compute: Callable[[Any], Value] = full_precision(compute)
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"_derived_{name}"

    @overload
    def __get__(self, chain: None, owner: type) -> Self: ...

    @overload
    def __get__(self, chain: object, owner: type) -> Value: ...

    def __get__(self, chain: Any, owner: type) -> Any:
        if chain is None:
            return self
        if chain.tracks_gradients:
            return self.compute(chain)
        known: dict[str, Any] = chain.__dict__
        if self.name not in known:
            with torch.inference_mode(False), torch.no_grad():
                known[self.name] = self.compute(chain)
        return known[self.name]

    def pass_on(self, chain: object, part: object, index: BatchIndex) -> None:
        """Hands what was kept for a batch, a vector for each chain, to a part of it."""
        if self.name in chain.__dict__:
            known = batch_select(chain.__dict__[self.name], index, 1)
            part.__dict__[self.name] = known
