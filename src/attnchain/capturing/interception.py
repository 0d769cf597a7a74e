"""The torch function mode that sees attention while a model runs."""

from abc import abstractmethod
from contextvars import ContextVar
from inspect import signature
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attnchain.capturing.calls import AttentionCall, Function, Named
from attnchain.capturing.recorder import Recorder
from attnchain.errors import CaptureError, ChainError

PRODUCTS = (torch.bmm, torch.baddbmm)
READING: frozenset[Any] = frozenset(
    (Tensor.dtype.__get__, Tensor.shape.__get__, Tensor.ndim.__get__, Tensor.size)  # pyright: ignore
)
"""Asked so often, by modules and by hooks, that looking closer would take its time."""
OTHER_KERNELS = (
    "flex_attention",
    "_flash_attn_forward",
    "_flash_attn_varlen_forward",
    "efficient_attention_forward_cutlass",
)

WEIGHING_HEADS: ContextVar[int | None] = ContextVar("WEIGHING_HEADS", default=None)
INSIDE_MULTI_HEAD: ContextVar[bool] = ContextVar("INSIDE_MULTI_HEAD", default=False)


class FunctionMode(TorchFunctionMode):
    """Sees every torch function that is called in the block."""

    def __torch_function__(
        self, func: Function, types: Any, args: Any = (), kwargs: Named | None = None
    ) -> Any:
        return self.run(func, args, kwargs or {})

    @abstractmethod
    def run(self, func: Function, args: Any, kwargs: Named) -> Any:
        """What the call returns."""


class Interception(FunctionMode):
    """Shows every call of fused attention to a recorder, then lets it run."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def run(self, func: Function, args: Any, kwargs: Named) -> Any:
        """Runs a torch function; attention of the model is seen first."""
        if not self.recorder.running or func in READING:
            return func(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            return self._multi_head(args, kwargs)
        self._look(func, args, kwargs)
        result: Any = func(*args, **kwargs)
        if not isinstance(cast("object", result), Tensor | tuple | list | None):
            return result
        if func in PRODUCTS:
            WEIGHING_HEADS.set(None)
        self._follow(func, args, kwargs, result)
        return result

    def _look(self, func: Function, args: Any, kwargs: Named) -> None:
        """Sees attention; a mistake in the model's own call is raised by the call."""
        try:
            self._look_at(func, args, kwargs)
        except ChainError:
            raise
        except Exception as error:
            func(*args, **kwargs)
            raise self._failed(func, error) from error

    def _follow(self, func: Function, args: Any, kwargs: Named, result: Any) -> None:
        try:
            if func is functional.scaled_dot_product_attention:
                self.recorder.attended(result)
            self.recorder.provenance.follow(func, args, kwargs, result)
            if not INSIDE_MULTI_HEAD.get():
                self.recorder.follow(func, args, kwargs, result)
        except ChainError:
            raise
        except Exception as error:
            raise self._failed(func, error) from error

    def _failed(self, func: Function, error: Exception) -> CaptureError:
        name = self.recorder.running[-1].name or "the model"
        return CaptureError(
            f"{getattr(func, '__name__', func)} in {name} could not be read "
            f"({type(error).__name__}: {error}); capture a part of the model without "
            f"it, and please report the call"
        )

    def _look_at(self, func: Function, args: Any, kwargs: Named) -> None:
        if func is functional.scaled_dot_product_attention:
            call = AttentionCall.of(args, kwargs, self.recorder.running[-1].heads())
            self.recorder.see(call, _queries_keys_values(args, kwargs))
        elif func in PRODUCTS and (heads := WEIGHING_HEADS.get()):
            self.recorder.check_fused()
            call = AttentionCall.of_product(args, heads)
            self.recorder.see(call, (args[-2], args[-1], args[-1]))
        elif getattr(func, "__name__", None) in OTHER_KERNELS:
            self.recorder.refuse(func.__name__)

    def _multi_head(self, args: Any, kwargs: Named) -> Any:
        """Runs torch's multi-head attention with this mode on.

        Asked for weights, it multiplies queries and keys by hand; that product is
        seen instead, also by captures around this one.
        """
        given = signature(MULTI_HEAD).bind(*args, **kwargs).arguments
        weighed = given.get("need_weights", True)
        token = WEIGHING_HEADS.set(given["num_heads"] if weighed else None)
        inside = INSIDE_MULTI_HEAD.set(True)
        try:
            with self:
                return MULTI_HEAD(*args, **kwargs)
        finally:
            INSIDE_MULTI_HEAD.reset(inside)
            WEIGHING_HEADS.reset(token)


def _never(_: Any) -> bool:
    """Whether arguments override the function, as the copies are told."""
    return False


def _without_override(function: Function) -> Function:
    """A copy of a torch function that runs its body under a function mode.

    The original hands itself to the mode before its body runs, so a mode would never
    see the calls inside it.
    """
    names = {**function.__globals__, "has_torch_function": _never}
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


MULTI_HEAD = _without_override(functional.multi_head_attention_forward)


def _queries_keys_values(args: Any, kwargs: Named) -> tuple[Tensor, Tensor, Tensor]:
    """The first three arguments, however they were given."""
    given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    return given["query"], given["key"], given["value"]
