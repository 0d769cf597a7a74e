"""What layers of a model read, kept while the model runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnchain.capturing import TokenGrid
from attnchain.errors import UnsupportedModelError
from attnchain.models import layer_stack

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnchain.models import LoadedModel


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


def read_states(
    model: "LoadedModel", picture: "Image", layers: Sequence[int], *, size: int
) -> tuple[list[Float[Tensor, "n width"]] | None, TokenGrid]:
    """What some layers read of the patches of a picture, and where these lie.

    Args:
        model: What `attnchain.models.load` returned.
        picture: A Pillow picture.
        layers: Layers counted from 0.
        size: Longer side the picture is resized to, in pixels.

    Returns:
        A state for each of the layers, as `every_state` has it, and the layout of the
        tokens.

    Raises:
        GridError: The size is less than one patch.
    """
    pixels = model.pixels(picture, size=size)
    grid = model.grid(pixels)
    with torch.no_grad(), watched_states(model.model, layers) as states:
        model.model(pixels)
    return every_state(states, layers, grid), grid


def every_state(
    states: Mapping[int, Sequence[Tensor]], layers: Sequence[int], grid: TokenGrid
) -> list[Float[Tensor, "n width"]] | None:
    """The states of the patches for each of some layers; None where one has none.

    Args:
        states: What `watched_states` collected.
        layers: Layers, by the numbers given there.
        grid: Layout of the model's tokens.
    """
    found = [patch_states(states[layer], grid) for layer in layers]
    kept = [state for state in found if state is not None]
    return kept if len(kept) == len(found) else None


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
