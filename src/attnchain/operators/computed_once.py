"""Quantities of a chain that are computed at their first use, in any mode of torch."""

from collections.abc import Callable
from functools import cached_property, wraps
from typing import Any, Generic, TypeVar

import torch

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
        self.compute = full_precision(compute)
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"_derived_{name}"

    def __get__(self, chain: Any, owner: type) -> Any:
        if chain is None:
            return self
        if chain.tracks_gradients:
            return self.compute(chain)
        if self.name not in vars(chain):
            with torch.inference_mode(False), torch.no_grad():
                vars(chain)[self.name] = self.compute(chain)
        return vars(chain)[self.name]

    def pass_on(self, chain: Any, part: Any, select: Callable[[Value], Value]) -> None:
        """Hands what was kept for a chain to a part of it."""
        if self.name in vars(chain):
            vars(part)[self.name] = select(vars(chain)[self.name])
