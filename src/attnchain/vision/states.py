"""What layers of a model read, kept while the model runs."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from attnchain.capturing import TokenGrid
from attnchain.errors import UnsupportedModelError
from attnchain.models import layer_stack


@contextmanager
def watched_states(
    model: nn.Module, layers: Iterable[int]
) -> Iterator[dict[int, list[Tensor]]]:
    """Collects the tokens that each of some layers reads, in the block.

    Args:
        model: A transformer.
        layers: Layers counted from 0, -1 the last.

    Returns:
        Context manager: for each of the layers, by the number given, one tensor for
        each run of the model; none where the model has no such layer.
    """
    states: dict[int, list[Tensor]] = {number: [] for number in layers}

    def keep(kept: list[Tensor], _module: nn.Module, args: Any, kwargs: Any) -> None:
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        kept.extend(given[:1])

    stack = _stack(model)
    hooks = [
        stack[number].register_forward_pre_hook(partial(keep, kept), with_kwargs=True)
        for number, kept in states.items()
        if -len(stack) <= number < len(stack)
    ]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def deepest(model: nn.Module, layers: Sequence[int] | None) -> int:
    """The last of some layers that the model has, counted from 0.

    Args:
        model: A transformer.
        layers: Layers counted from 0, -1 the last; all where None.

    Returns:
        Its number; -1 where there is none of them.
    """
    count = len(_stack(model))
    within = [n for n in (layers or (-1,)) if -count <= n < count]
    return max((n % count for n in within), default=-1)


def patch_states(
    states: Sequence[Tensor], grid: TokenGrid
) -> Float[Tensor, "n width"] | None:
    """The states of the patches; None where they are not laid out as tokens.

    Args:
        states: What `watched_states` collected of a layer.
        grid: Layout of the model's tokens.
    """
    for state in states:
        if state.ndim == 3 and state.shape[:2] == (1, grid.n_tokens):
            return state[0, grid.patches].detach().float()
    return None


def _stack(model: nn.Module) -> nn.ModuleList | nn.Sequential:
    """The model's layers; none where it has no stack of them."""
    try:
        return layer_stack(model)
    except UnsupportedModelError:
        return nn.ModuleList()
