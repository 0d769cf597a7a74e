"""What a layer of a model reads, kept while the model runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from attnchain.capturing import TokenGrid
from attnchain.errors import UnsupportedModelError
from attnchain.models import layer_stack


@contextmanager
def watched_state(
    model: nn.Module, layers: Sequence[int] | None
) -> Iterator[list[Tensor]]:
    """Collects the tokens that the last of some layers reads, in the block.

    Args:
        model: A transformer.
        layers: Layers counted from 0, -1 the last; all where None.

    Returns:
        Context manager of a list: one tensor for each run of the model, none where the
        model has no such layer.
    """
    states: list[Tensor] = []
    layer = _last_of(model, layers)
    if layer is None:
        yield states
        return

    def keep(_module: nn.Module, args: Any, kwargs: Any) -> None:
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        states.extend(given[:1])

    hook = layer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield states
    finally:
        hook.remove()


def patch_states(
    states: Sequence[Tensor], grid: TokenGrid
) -> Float[Tensor, "n width"] | None:
    """The states of the patches; None where they are not laid out as tokens.

    Args:
        states: What `watched_state` collected.
        grid: Layout of the model's tokens.
    """
    for state in states:
        if state.ndim == 3 and state.shape[:2] == (1, grid.n_tokens):
            return state[0, grid.patches].detach().float()
    return None


def _last_of(model: nn.Module, layers: Sequence[int] | None) -> nn.Module | None:
    """The last of some layers; None where there is none to be watched."""
    try:
        stack = layer_stack(model)
    except UnsupportedModelError:
        return None
    count = len(stack)
    numbers = [n % count for n in layers or (-1,) if -count <= n < count]
    return stack[max(numbers)] if numbers else None
