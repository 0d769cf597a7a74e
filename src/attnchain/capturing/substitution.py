"""Another function in place of fused attention, while a model runs."""

import inspect
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional

from attnchain.capturing.calls import Function, Named
from attnchain.capturing.interception import MULTI_HEAD, FunctionMode
from attnchain.capturing.switches import fused_attention
from attnchain.errors import ArgumentError, SiteNotFoundError, UnsupportedModelError

PLAIN = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "enable_gqa": False}
"""Named of fused attention that change nothing."""


@contextmanager
def replaced_attention(
    model: nn.Module,
    attend: Callable[..., Tensor],
    *,
    layers: Collection[int] | None = None,
) -> Generator[None]:
    """Runs a function of ours where a model calls fused attention.

    Args:
        model: Any torch module that calls `scaled_dot_product_attention`, or can be
            told to (see `fused_attention`).
        attend: Called as `attend(query, key, value, **given)` with `(batch, heads,
            n, d)` each, and of scale, mask, causality and the like what the model gave
            and is not the default; returns what takes the place of the output.
        layers: Numbers of the calls to replace, counted from 0 in each run of the
            model; all by default.

    Raises:
        UnsupportedModelError: The model gave an argument that `attend` does not take,
            or ran without calling fused attention.
        SiteNotFoundError: The model ran, and has no layer of such a number.
        ArgumentError: The result has another shape than attention's.

    Example:
        >>> import torch
        >>> heads = torch.nn.MultiheadAttention(2, 1, batch_first=True).eval()
        >>> def first(query, key, value):
        ...     return value[..., :1, :].expand_as(value)
        >>> x = torch.randn(1, 3, 2)
        >>> with replaced_attention(heads, first), torch.no_grad():
        ...     found, _ = heads(x, x, x, need_weights=False)
        >>> torch.equal(found[0, 0], found[0, 2])
        True
    """
    mode = _Substitution(attend, None if layers is None else frozenset(layers))
    hooks = [
        model.register_forward_pre_hook(mode.enter),
        model.register_forward_hook(mode.leave, always_call=True),
    ]
    try:
        with fused_attention(model), mode:
            yield
    finally:
        for hook in hooks:
            hook.remove()
    mode.check()


class _Substitution(FunctionMode):
    """Counts the calls of each run of the model, and answers the chosen ones."""

    def __init__(
        self, attend: Callable[..., Tensor], layers: frozenset[int] | None
    ) -> None:
        super().__init__()
        self._attend, self._layers = attend, layers
        self._depth, self._calls, self._most = 0, 0, -1

    def enter(self, *_: object) -> None:
        """The model begins to run."""
        self._calls = self._calls if self._depth else 0
        self._depth += 1

    def leave(self, *_: object) -> None:
        """It ends."""
        self._depth -= 1
        self._most = max(self._most, self._calls)

    def check(self) -> None:
        """Raises where the model ran and a chosen layer was not there."""
        if self._most == 0:
            message = (
                "the model ran without calling fused attention, so nothing was "
                "replaced; it computes attention in a way of its own"
            )
            raise UnsupportedModelError(message)
        missing = sorted(n for n in self._layers or () if not 0 <= n < self._most)
        if missing and self._most > 0:
            message = (
                f"layers {missing} were not there to be replaced: the model called "
                f"fused attention {self._most} times, numbered from 0"
            )
            raise SiteNotFoundError(message)

    def run(self, func: Function, args: Any, kwargs: Named) -> Any:
        """Answers the chosen calls of fused attention; all else runs as it is."""
        if self._depth and func is functional.multi_head_attention_forward:
            with self:
                return MULTI_HEAD(*args, **kwargs)
        if not self._depth or func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        number, self._calls = self._calls, self._calls + 1
        if self._layers is not None and number not in self._layers:
            return func(*args, **kwargs)
        return self._answer(args, kwargs)

    def _answer(self, args: Any, kwargs: Named) -> Tensor:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args, strict=False)) | kwargs
        query, key, value = (given.pop(name) for name in names[:3])
        given = {name: x for name, x in given.items() if not _is_default(name, x)}
        _check_taken(self._attend, (query, key, value), given)
        found = cast("object", self._attend(query, key, value, **given))
        want = (*query.shape[:-1], value.shape[-1])
        if not isinstance(found, Tensor) or found.shape != want:
            have = tuple(found.shape) if isinstance(found, Tensor) else type(found)
            message = f"attend must return a tensor {want}, but returned {have}"
            raise ArgumentError(message)
        return found


def _check_taken(attend: Function, parts: Any, given: Named) -> None:
    """Raises where the function has no parameter for what the model gave."""
    try:
        expected = inspect.signature(attend)
    except ValueError:  # built in, with no signature to read
        return
    try:
        expected.bind(*parts, **given)
    except TypeError as error:
        message = (
            f"the model calls attention with {', '.join(('q, k, v', *given))}, which "
            f"the function given does not take ({error})"
        )
        raise UnsupportedModelError(message) from error


def _is_default(name: str, value: Any) -> bool:
    if name == "scale":
        return value is None
    return not isinstance(value, Tensor) and value == PLAIN.get(name, value is None)
