"""What a token was against what attention adds: weights for `relevance`."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from attnchain.errors import ShapeError, SiteNotFoundError


@contextmanager
def residual_shares(
    model: nn.Module, *, stream: str, branch: str
) -> Iterator[list[Tensor]]:
    r"""Weights for `relevance`: what a token was against what attention adds to it.

    $w_i = \|x_i\| / (\|x_i\| + \|y_i\|)$, with x the token as it enters a layer and y
    the output of its attention, both as they are summed. A reconstruction: the weights
    of arXiv 2308.10240 are not published.

    Args:
        model: Run inside the block.
        stream: Pattern for names of the modules that x enters first, as in a shell:
            `"encoder.layer.*"` or `"*attn_layer_norm"`; what lies inside a module that
            fits is not looked at.
        branch: Pattern for the modules that give y: `"*.layer_scale1"`, `"*_attn"`.

    Yields:
        A list that holds one tensor `(pictures, n)` for each layer when the model has
        run.

    Raises:
        SiteNotFoundError: A pattern fits no module, or y came before any x.
        ShapeError: x and y have different shapes.
    """
    found: list[Tensor] = []
    entered: list[Tensor] = []

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict) -> None:
        tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        entered[:] = [next(tensors).detach()]

    def leave(module: nn.Module, _args: Any, output: Any) -> None:
        added = output[0] if isinstance(output, tuple) else output
        if not entered or entered[0].shape != added.shape:
            came = tuple(entered[0].shape) if entered else "nothing"
            message = (
                f"{type(module).__name__} adds {tuple(added.shape)} to {came}; stream "
                f"must name the modules that the tokens enter just before"
            )
            raise ShapeError(message)
        x, y = entered[0].norm(dim=-1), added.detach().norm(dim=-1)
        found.append(x / (x + y))

    hooks = []
    try:
        hooks += [
            module.register_forward_pre_hook(enter, with_kwargs=True)
            for module in _outermost(model, stream)
        ]
        hooks += [m.register_forward_hook(leave) for m in _outermost(model, branch)]
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _outermost(model: nn.Module, pattern: str) -> list[nn.Module]:
    """Modules whose names fit, but none inside another."""
    fitting = [n for n, _ in model.named_modules() if fnmatchcase(n, pattern)]
    if not fitting:
        raise SiteNotFoundError(f"no module of the model is named like {pattern!r}")
    inside = [any(n.startswith(f"{other}.") for other in fitting) for n in fitting]
    pairs = zip(fitting, inside, strict=True)
    return [model.get_submodule(name) for name, within in pairs if not within]
