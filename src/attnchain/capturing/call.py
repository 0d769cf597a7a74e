"""The modules that are running: what `forward` hooks tell about an attention call."""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

SECOND_SEQUENCE = ("encoder_hidden_states", "key_value_states")


class Call(NamedTuple):
    """One running module with the arguments its forward was given."""

    name: str
    module: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}

    @property
    def families(self) -> tuple[str, ...]:
        """Package and class of the module and its bases: `transformers.ViTModel`."""
        return _families(type(self.module))

    def argument(self, name: str) -> Any:
        """Returns the named argument of forward, however it was given, else None."""
        if name in self.kwargs:
            return self.kwargs[name]
        names = _parameters(type(self.module))
        position = names.index(name) if name in names else len(self.args)
        return self.args[position] if position < len(self.args) else None

    def tensor(self, name: str) -> Tensor | None:
        """Returns the named argument when it is a tensor, else None."""
        value = self.argument(name)
        return value if isinstance(value, Tensor) else None

    def second_length(self) -> int | None:
        """Returns the length of the other sequence that is attended to, if any."""
        if isinstance(self.module, nn.MultiheadAttention):
            query, key = self.tensor("query"), self.tensor("key")
            if query is None or key is None or _equal(query, key):
                return None
            return key.shape[1 if self.module.batch_first and key.ndim == 3 else 0]
        for name in SECOND_SEQUENCE:
            found = self.tensor(name)
            if found is not None:
                return found.shape[-2]
        return None


def _equal(query: Tensor, key: Tensor) -> bool:
    """Tells whether two arguments are the same sequence, also when computed twice."""
    if query is key or query.shape != key.shape or query.is_meta:
        return query is key
    return torch.equal(query, key)


@lru_cache(maxsize=256)
def _parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    """Names of the parameters of a module's forward, without self."""
    return tuple(inspect.signature(kind.forward).parameters)[1:]


@lru_cache(maxsize=256)
def _families(kind: type[nn.Module]) -> tuple[str, ...]:
    """Package and name of a class and its bases."""
    return tuple(
        f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in kind.__mro__
    )
