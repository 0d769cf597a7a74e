"""The torch function mode that sees attention while a model runs."""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attnchain.capturing.recorder import Recorder
from attnchain.capturing.seen import Seen

SOFTMAX = (torch.softmax, functional.softmax, Tensor.softmax)
PRODUCTS = (torch.bmm, torch.baddbmm)
OTHER_KERNELS = (
    "flex_attention",
    "_flash_attn_forward",
    "_flash_attn_varlen_forward",
    "efficient_attention_forward_cutlass",
)


class Watch(TorchFunctionMode):
    """Shows every call of fused attention to a recorder, then lets it run."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.weighing_heads: int | None = None

    def __torch_function__(
        self, func: Callable, types: Any, args: Any = (), kwargs: dict | None = None
    ) -> Any:
        """Runs a torch function; attention is seen first."""
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            self.recorder.see(Seen.of(args, kwargs))
        elif func is functional.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        elif self.weighing_heads and func in PRODUCTS:
            self.recorder.see(Seen.of_product(args, self.weighing_heads))
            self.weighing_heads = None
        elif func in SOFTMAX:
            self.recorder.see_softmax(args[0] if args else kwargs["input"])
        elif getattr(func, "__name__", None) in OTHER_KERNELS:
            self.recorder.refuse(func.__name__)
        return func(*args, **kwargs)

    def _multi_head(self, *args: Any, need_weights: bool = True, **kwargs: Any) -> Any:
        """Runs torch's multi-head attention with this mode on.

        Asked for weights, it multiplies queries and keys by hand; that product is
        seen instead.
        """
        self.weighing_heads = args[4] if need_weights else None
        try:
            with self:
                return _MULTI_HEAD(*args, need_weights=need_weights, **kwargs)
        finally:
            self.weighing_heads = None


def _without_override(function: Callable) -> Callable:
    """A copy of a torch function that runs its body under a function mode.

    The original hands itself to the mode before its body runs, so a mode would never
    see the calls inside it.
    """
    names = function.__globals__ | {"has_torch_function": lambda _: False}
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_MULTI_HEAD = _without_override(functional.multi_head_attention_forward)
